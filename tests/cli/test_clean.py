"""``detkds clean`` deletes what nobody needs, and nothing else."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from detkds.db import Store
from detkds.space import Outcome, Status
from detkds.workers.training import Training
from stored_search import finished_search

DONE = Outcome(Status.COMPLETED, score=0.25)


def trained(store: Store, search: int, split: str) -> Path:
    """The folder of a training that was killed on its last steps, and ended by another process."""
    folder = Path(f"runs/cells/{split}-training")
    folder.mkdir(parents=True)
    for name in ("student.pth", "resume.pth", "x.pth.damaged", ".student.pth.tmp", "log.txt"):
        (folder / name).write_bytes(bytes(500_000))
    (folder / "outcome.json").write_text(DONE.to_json())
    row = store.add_training(split, 0, split, "conditions", search)
    store.finish_training(row, DONE, str(folder / "student.pth"))
    return folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two trainings of a finished search, and the temporary folders of a process that has ended
    and of this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    found = {}
    for name, process in (("old", ended.pid), ("new", os.getpid())):
        found[name] = tmp_path / f"detkds-trial-{process}-x"
        found[name].mkdir()
        (found[name] / "log").write_bytes(bytes(500_000))
    Path("runs/cells").mkdir(parents=True)
    with Store("sqlite:///runs/cells/detkds.db") as store:
        search = finished_search(store)
        store.finish_search(search)
        found |= {split: trained(store, search, split) for split in ("proxy", "test")}
    return found


def test_it_says_what_it_would_free_and_does_so_when_told(folders, command):
    before = sorted(Path("runs").rglob("*"))
    code, said = command("clean", "cells")
    assert code == 0, said
    assert sorted(Path("runs").rglob("*")) == before
    assert said.splitlines()[-1] == "8 file(s) and folder(s), 4.0 MB; --yes deletes them"
    assert "0.5 MB  runs/cells/test-training/resume.pth: test is trained" in said
    code, said = command("clean", "cells", "--yes")
    assert said.splitlines()[-1] == "8 file(s) and folder(s), 4.0 MB deleted"
    kept = {"outcome.json", "log.txt"}
    assert {file.name for file in folders["test"].iterdir()} == kept | {"student.pth"}
    assert {file.name for file in folders["proxy"].iterdir()} == kept | {"student.pth.freed"}
    assert not folders["old"].exists()
    assert folders["new"].exists(), "its process goes on"
    assert command("clean", "cells") == (0, "nothing to free\n")


def test_a_training_whose_student_was_freed_is_not_trained_again(folders, command):
    command("clean", "cells", "--yes")
    training = Training.model_construct(folder=str(folders["proxy"]))
    assert not training.checkpoint.exists()
    assert training.finished() == DONE


def test_a_search_that_runs_is_not_touched(folders, command):
    with Store("sqlite:///runs/cells/detkds.db") as store, store.held("cells"):
        code, said = command("clean", "cells", "--yes")
    assert code == 2
    assert "cells" in said
    assert (folders["test"] / "resume.pth").exists()
