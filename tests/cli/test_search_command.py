"""``detkds search`` and the commands after it, as a user types them, on real detectors and Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
import torch
from detkds.db import Store
from detkds.detectors import build_detector, model_config
from detkds.space import Distiller, Status
from terminal import Terminal, broken, frames

pytestmark = pytest.mark.slow

OPTIONS = ("search.start=['pkd', 'logits: norm_n, l2 × 5']",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A work folder in which a whole tiny search with one worker has run, in a terminal."""
    folder = tmp_path_factory.mktemp("search")
    terminal = Terminal(tiny.search_command(folder, options=OPTIONS), columns=80)
    assert terminal.wait(900) == 0, "\n".join(terminal.screen)
    (folder / "output.txt").write_text(terminal.output, newline="")
    return folder


def rows(folder: Path, name: str = "detkds.db") -> list:
    with Store(f"sqlite:///{folder / name}") as store:
        return store.trials(store.search("quickstart").id)


def told(folder: Path, name: str) -> list:
    return [row for row in rows(folder, name) if row.tell_order is not None]


def test_a_search_ends_with_the_table_and_the_paths(finished):
    with (finished / "output.txt").open(newline="") as file:
        shown = frames(file.read(), columns=80)
    printed = "".join(shown[-1])  # a long path goes on in the next line
    for text in ("student alone", "pkd", "found", "AP50", str(finished / "quickstart.json")):
        assert text in printed
    assert [line for screen in shown for line in broken(screen)] == []
    assert any("waiting" in line for screen in shown for line in screen), "trainings are shown"
    assert len(rows(finished)) >= tiny.TRIALS
    assert {row.stage for row in rows(finished)} == {"start", "global", "logits", "weights"}
    for row in rows(finished):
        assert row.status is not Status.FAILED, row.error
        assert row.status is Status.REJECTED or (
            0 <= row.score <= 1 and "bbox_mAP_50" in row.metrics
        )
        assert row.host or row.status is Status.REJECTED or row.reused_from


def test_the_populations_start_from_what_was_named(finished):
    named = ["global: identity, pearson × 5", "logits: norm_n, l2 × 5"]
    assert [str(row.distiller) for row in rows(finished)[:2]] == named
    stages = {row.stage: str(row.distiller) for row in reversed(rows(finished))}
    assert [stages["global"], stages["logits"]] == named


def test_the_exported_distiller_is_the_best_trial_and_trains_on(finished):
    best = max((r for r in rows(finished) if r.score is not None), key=lambda r: r.score)
    file = finished / "again.json"
    done = tiny.run(tiny.command("export", "quickstart", "--work-dir", finished, "--out", file))
    assert done.returncode == 0, done.stderr
    exported = Distiller.from_json(file)
    assert exported.key == best.distiller.key
    assert exported == Distiller.from_json(finished / "quickstart.json")
    assert exported.provenance["proxy"]["ap"] == best.score
    shown = tiny.run(tiny.command("show", file))
    assert str(exported) in shown.stdout


def test_every_checkpoint_is_a_stock_models_own(finished):
    checkpoints = list(finished.glob("trained/*/student.pth"))
    assert len(checkpoints) == 3
    for checkpoint in checkpoints:
        stock = build_detector(
            model_config("detkds::retinanet_r18_thin.py", {"model.bbox_head.num_classes": 4})
        )
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        stock.load_state_dict(state, strict=True)


def test_trials_lists_and_writes_all_columns(finished):
    listed = tiny.run(tiny.command("trials", "quickstart", "--work-dir", finished))
    assert listed.returncode == 0
    assert "weights" in listed.stdout
    file = finished / "trials.csv"
    tiny.run(tiny.command("trials", "quickstart", "--work-dir", finished, "--csv", file))
    assert file.read_text().count("\n") >= tiny.TRIALS + 1
    assert "metrics.bbox_mAP_75" in file.read_text().split("\n")[0]


def test_train_takes_the_exported_distiller(finished):
    done = tiny.run(
        tiny.command(
            "train", "quickstart", "--distiller", finished / "quickstart.json",
            "--work-dir", finished, "--cfg-options", *tiny.OPTIONS,
        )
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "student.pth" in done.stdout


def test_the_same_name_is_not_searched_twice_by_accident(finished, command):
    code, printed = command(*tiny.search_arguments(finished))
    assert code == 2
    *planned, said = printed.splitlines()
    assert "resume it or give another name" in said
    assert all(line.startswith("planned ") for line in planned)


def test_a_resume_of_a_name_that_is_not_there_starts_nothing(finished, command):
    before = len(rows(finished))
    code, printed = command(*tiny.search_arguments(finished, "--name", "quikstart", "--resume"))
    assert code == 2
    assert printed.endswith("did you mean quickstart?\n"), printed
    assert len(rows(finished)) == before


def test_a_search_without_a_completed_trial_fails_in_one_line(finished):
    """A learning rate at which every loss is infinite."""
    options = (
        "trial.optim_wrapper.optimizer.lr=1e30", "trial.optim_wrapper.clip_grad=None",
        "search.knowledge=['logits']", "search.population=1", "search.iterations=0",
    )  # fmt: skip
    url = f"sqlite:///{finished / 'failing.db'}"
    failed = tiny.run(tiny.search_command(finished, "--storage", url, options=options))
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert failed.stderr.startswith("detkds: no trial completed: see `detkds trials`")
    assert {row.status for row in rows(finished, "failing.db")} == {Status.REJECTED}


def test_a_resume_under_other_conditions_is_refused(finished, command):
    changed = ("trial.epochs=2", "search.seed=3")
    code, printed = command(*tiny.search_arguments(finished, "--resume", options=changed))
    assert code == 2
    assert "trial.epochs" in printed
    assert "search.seed" in printed


def interrupted(
    command: list[str], folder: Path, database: str, kill: int, after_told: int, columns: int
) -> tuple[int, Terminal]:
    """Start a search in a terminal and end it midway; SIGINT is Ctrl-C, pressed in the terminal.

    Returns the exit code and the terminal.
    """
    terminal = Terminal(command, columns)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and terminal.process.poll() is None:
        if (folder / database).is_file() and _told_count(folder, database) >= after_told:
            break
        time.sleep(0.05)
    if kill == signal.SIGINT:
        terminal.press("\x03")
    else:
        terminal.process.send_signal(kill)
    return terminal.wait(), terminal


def _told_count(folder: Path, database: str) -> int:
    try:
        return len(told(folder, database))
    except Exception:
        return 0  # not migrated yet


def test_an_interrupted_search_resumes_as_the_uninterrupted_one_would(finished):
    """First Ctrl-C ends the search, then SIGKILL its continuation.

    The search uses the trained teacher in the finished search's folder.
    """
    database = "killed.db"
    command = tiny.search_command(
        finished,
        *("--storage", f"sqlite:///{finished / database}"),
        options=(*OPTIONS, "final=None"),
    )
    known: dict[int, object] = {}
    for kill, after, columns in ((signal.SIGINT, 3, 120), (signal.SIGKILL, 6, 200)):
        code, terminal = interrupted(command, finished, database, kill, after, columns)
        screen = terminal.screen
        shown = frames(terminal.output, columns)
        assert [line for one in shown for line in broken(one)] == []
        assert [line for line in screen if f"/{tiny.TRIALS + 2} trials done, " in line]
        assert [line for line in screen if line.split()[:1] == ["global"]]
        if kill == signal.SIGINT:
            assert code == 130
            said = "".join(screen).partition("interrupted; go on with: ")[2]
            assert said.startswith("detkds search quickstart")
            assert said.endswith("--resume")
            command.insert(3, "--resume")
        else:
            assert code == -signal.SIGKILL
        before = {row.number: row for row in told(finished, database)}
        assert after <= len(before) < tiny.TRIALS, "the kill must come midway"
        assert known.items() <= before.items()
        known = before
    done = tiny.run(command)
    assert done.returncode == 0, done.stderr
    after_resume = rows(finished, database)
    for number, row in known.items():
        assert after_resume[number] == row, "a finished trial is neither lost nor run again"
    whole = rows(finished)
    assert [(r.stage, r.key, r.status, r.score) for r in after_resume] == [
        (r.stage, r.key, r.status, r.score) for r in whole
    ], "same candidates, and to the last digit the same scores"


def test_the_wheel_alone_runs_the_quickstart_elsewhere(tmp_path):
    """The wheel, unpacked into another folder, holds configs and migrations."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(Path(__file__).parents[2], source, ignore=ignored)
    wheel = [os.fspath(Path(tiny.sys.executable)), "-m", "pip", "wheel", "--no-deps", "--quiet"]
    built = tiny.run([*wheel, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)])
    assert built.returncode == 0, built.stderr
    elsewhere = tmp_path / "elsewhere"
    unpack = [tiny.sys.executable, "-m", "zipfile", "-e", str(next(tmp_path.glob("*.whl")))]
    assert tiny.run([*unpack, str(elsewhere)]).returncode == 0
    script = (
        "import detkds, sys; assert detkds.__file__.startswith(sys.argv.pop(1));"
        "from detkds.cli import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    search = tiny.search_command(
        tmp_path / "run",
        options=(
            *("search.knowledge=['logits']", "search.population=1", "search.iterations=0"),
            "final=None",
        ),
    )[1:]
    done = subprocess.run(
        [tiny.sys.executable, "-c", script, str(elsewhere), *search],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "run" / "quickstart.json").read_text())
    assert document["schema"] == "detkds/distiller/1"
