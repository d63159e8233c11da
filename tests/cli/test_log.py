"""``detkds trials --trainings`` and ``detkds log``: what failed, and why."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
from detkds.db import Store
from detkds.space import Outcome
from stored_search import finished_search

ERROR = "Traceback (most recent call last):\n  File x\nKeyError: 'AdamW8'"


@pytest.fixture
def run(command):
    """Run the command beside a finished search whose teacher's first training failed."""
    folder = Path("runs/cells/teacher-0/20260101_000000")
    folder.mkdir(parents=True)
    (folder / "20260101_000000.log").write_text("Epoch(train) [1][50/100]  loss: 0.5\n")
    with Store("sqlite:///runs/cells/detkds.db") as store:
        search = finished_search(store)
        failed = store.add_training(
            "teacher", 0, "none", "c", search, checkpoint=str(folder.parent / "teacher.pth")
        )
        outcome = Outcome.failed(ERROR, host="node-7", device="cuda:0")
        store.finish_training(failed, outcome, str(folder.parent / "teacher.pth"))
    return command


def test_failed_trainings_are_listed_with_their_reason(run):
    code, said = run("trials", "cells", "--trainings", "--status", "failed")
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if "teacher" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        *("cells", "teacher-seed0", "none", "failed", "", "KeyError: 'AdamW8'")
    ]
    run("trials", "cells", "--trainings", "--csv", "t.csv", "--sort", "score")
    table = pandas.read_csv("t.csv")
    assert list(table["label"])[:2] == ["teacher-scored-seed7", "found-seed1"]
    assert list(table["metrics.bbox_mAP"])[1:3] == [0.24, 0.22]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--stage", "logits"], "--stage: a training has none; leave it or --trainings out"),
        (["--sort", "early_score"], "--sort early_score: did you mean score?"),
    ],
)
def test_wrong_lists_of_trainings(run, options, says):
    assert run("trials", "cells", "--trainings", *options) == (2, f"detkds: {says}\n")


def test_a_trainings_log_ends_with_its_traceback_and_state(run):
    code, said = run("log", "cells", "teacher-seed0")
    assert code == 0, said
    lines = said.splitlines()
    assert lines[0] == (
        "training teacher-seed0, scored on none; its file: runs/cells/teacher-0/teacher.pth"
    )
    assert "Epoch(train) [1][50/100]  loss: 0.5" in lines
    assert lines[-4:-1] == ERROR.splitlines()
    assert lines[-1].startswith("failed, begun ")
    assert lines[-1].endswith(" on node-7 cuda:0")


def test_a_trial_is_told_by_its_number(run):
    code, said = run("log", "cells", "5")
    assert code == 0, said
    lines = said.splitlines()
    assert lines[0] == "trial 5, stage logits: logits: norm_n, kl × 5"
    assert lines[1] == "Traceback"
    assert lines[-1] == "failed"
    assert run("log", "cells", "2")[1].splitlines()[-1] == "completed, AP 31.0, 100 s"


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("17", "search 'cells' has no trial 17: its trials are 0 to 5"),
        (
            "techer-seed0",
            "search 'cells' has no training techer-seed0: did you mean teacher-seed0?",
        ),
    ],
)
def test_what_is_not_there_is_told(run, which, says):
    assert run("log", "cells", which) == (2, f"detkds: {says}\n")


def test_a_folder_with_one_search_needs_no_name(run):
    code, said = run("export", "--work-dir", "runs/cells", "--out", "best.json")
    assert code == 0, said
    code, said = run("report", "--work-dir", "runs/cells")
    assert (code, said) == (0, "6 trials, written to runs/cells/cells.html\n")
    code, said = run("watch", "--work-dir", "runs/cells", "--once")
    assert said.startswith("cells: finished ")
    with Store("sqlite:///runs/cells/detkds.db") as store:
        store.create_search("other", {}, "c", 0)
    code, said = run("report", "--work-dir", "runs/cells")
    assert said == (
        "detkds: sqlite:///runs/cells/detkds.db holds searches: cells, other: name one\n"
    )
    code, said = run("report")
    assert said == "detkds: give a search's name, or the --work-dir of its files\n"
