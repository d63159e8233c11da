"""A work folder says what ran in it, and is enough to go on by."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import tiny
import torch
from detkds import __version__
from detkds.search.record import ENVIRONMENT, config_file, recorded, write_record
from detkds.settings import load_config
from detkds.space import Distiller, WrongUse


def test_the_record_is_the_same_config_and_says_what_it_ran_under(tmp_path: Path) -> None:
    settings = load_config("quickstart", tiny.OPTIONS)
    for kind in ("search", "search", "train"):
        write_record(tmp_path / "run", "cells", kind, settings)
    file, name = recorded(tmp_path / "run", None, "search")
    assert (file, name) == (tmp_path / "run" / "cells.search.py", "cells")
    assert load_config(str(file)) == settings
    starts = json.loads((tmp_path / "run" / ENVIRONMENT).read_text())
    assert [one["command"] for one in starts] == ["search", "search", "train"]
    assert starts[0]["detkds"] == __version__
    assert starts[0]["python"] == platform.python_version()
    assert starts[0]["packages"]["torch"] == torch.__version__
    assert {"mmdet", "mmengine", "ray"} <= set(starts[0]["packages"])
    assert starts[0]["platform"] == platform.platform()
    assert starts[0]["devices"]


def test_files_named_by_relative_paths_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Distiller((), name="none").to_json("mine.json")
    Path("teacher.py").write_text("model = dict(type='RetinaNet')")
    options = ["search.start=['mine.json','pkd']", "teacher.config=teacher.py"]
    write_record(tmp_path / "run", "cells", "search", load_config("quickstart", options))
    monkeypatch.chdir("/")
    again = load_config(str(config_file(tmp_path / "run", "cells", "search")))
    assert again.search.start == [str(tmp_path / "mine.json"), "pkd"]
    assert again.teacher is not None
    assert again.teacher.config == str(tmp_path / "teacher.py")
    assert again.student.config == load_config("quickstart").student.config


def test_a_training_goes_by_the_search_of_its_folder(tmp_path: Path) -> None:
    settings = load_config("quickstart")
    with pytest.raises(WrongUse, match="has no config that a train left there: give a search"):
        recorded(tmp_path, None, "train")
    write_record(tmp_path, "b", "train", settings)
    assert recorded(tmp_path, None, "train")[1] == "b"
    with pytest.raises(WrongUse, match="has no config of 'b' that a search left"):
        recorded(tmp_path, "b", "search")
    write_record(tmp_path, "a", "search", settings)
    assert recorded(tmp_path, None, "train") == (tmp_path / "a.search.py", "a")
    write_record(tmp_path, "c", "search", settings)
    with pytest.raises(WrongUse, match=r"a\.search\.py, .*c\.search\.py: give one as CONFIG"):
        recorded(tmp_path, None, "search")
    assert recorded(tmp_path, "c", "search")[1] == "c"


def test_the_commands_go_by_the_folder_alone(tmp_path: Path, command) -> None:
    """The same config is printed without it; options are merged into it as into any config."""
    options = ["--cfg-options", *tiny.OPTIONS]
    code, printed = command("search", "quickstart", "--work-dir", "run", "--dry-run", *options)
    assert code == 0, printed
    settings = load_config("quickstart", tiny.OPTIONS)
    write_record(tmp_path / "run", "quickstart", "search", settings)
    assert command("search", "--work-dir", "run", "--dry-run") == (0, printed)
    told = command("train", "--work-dir", "run", "--distiller", "pkd", "--dry-run")
    assert told == (0, printed)
    changed = ("--cfg-options", "final.epochs=7")
    code, other = command("search", "--work-dir", "run", "--dry-run", *changed)
    assert "epochs=7" in other
    code, said = command("search", "--work-dir", "elsewhere", "--resume")
    assert code == 2
    assert said.startswith("detkds: --work-dir: elsewhere has no config that a search left there")
    code, said = command("search")
    assert "or the --work-dir of an earlier search" in said
