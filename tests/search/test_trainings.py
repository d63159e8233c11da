"""Full trainings and their rows in the store, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from detkds.db import Store
from detkds.search.plans import trainings
from detkds.search.plans.full import student_training
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.search.plans.trainings import run_training, train_all
from detkds.settings import load_config
from detkds.space import Distiller, Outcome, Status
from detkds.workers.resuming import RESUME
from detkds.workers.training import Training, train
from one_process import Said


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(load_config("quickstart", tiny.OPTIONS), tmp_path)


def test_a_training_that_ended_before_its_row_was_written_is_completed_by_a_resume(
    plan: Plan, store: Store
) -> None:
    training = plan.teacher
    assert training is not None
    search = store.create_search("a", {}, plan.conditions, 0)
    split = "test" if training.test else "none"
    started = [
        store.add_training(training.name, seed, split, plan.conditions, owner)
        for seed, owner in ((training.seed, search.id), (training.seed + 1, search.id), (0, None))
    ]
    outcome = Outcome(Status.COMPLETED, score=0.25, seconds=3.0, host="node-7")
    folder = Path(training.folder)
    folder.mkdir(parents=True)
    training.checkpoint.touch()
    (folder / "outcome.json").write_text(outcome.to_json())
    for _ in range(2):
        assert train_all([training], plan, Said(), store, search) == [outcome]
        rows = {row.id: row for row in store.trainings()}
        assert rows[started[0]].outcome == outcome
        assert rows[started[0]].checkpoint == str(training.checkpoint)
        assert [rows[one].status for one in started[1:]] == [Status.RUNNING] * 2
        assert len(rows) == 3
    other = store.create_search("b", {}, plan.conditions, 0)
    for _ in range(2):
        assert train_all([training], plan, Said(), store, other) == [outcome]
        (row,) = store.trainings(other.id)
        assert (row.outcome, row.checkpoint) == (outcome, str(training.checkpoint))


def test_a_training_that_is_done_under_another_name_is_not_done_again(
    plan: Plan, tmp_path: Path
) -> None:
    """As a search's "found" one, which ``detkds train`` calls by the name of the file."""
    own = Distiller.parse("global: identity, pearson × 5")
    found = student_training(plan, "found", own, 0)
    Path(found.folder).mkdir(parents=True)
    found.checkpoint.touch()
    assert student_training(plan, "mine", own, 0).folder != found.folder, "it is not done"
    outcome = Outcome(Status.COMPLETED, score=0.25)
    (Path(found.folder) / "outcome.json").write_text(outcome.to_json())
    display = Said()
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        ((mine, known),) = run_training(plan, store, display, own, "mine")
        (row,) = store.trainings()
    assert (mine.folder, known) == (found.folder, outcome)
    assert display.lines == [f"mine, seed 0: trained already, in {found.folder}"]
    assert (row.name, row.checkpoint) == ("mine", str(found.checkpoint))
    for other in ((Distiller.parse("global: identity, pearson × 2"), 0), (own, 1)):
        assert student_training(plan, "mine", *other).folder != found.folder


@pytest.mark.slow
def test_a_damaged_state_is_said(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(
        todo: list[Training], _: Any, on_done: Callable[[Training, Outcome], None], **__: Any
    ) -> list[Outcome]:
        """Ray's part: to run each training and to tell when it ends."""
        outcomes = [train(training) for training in todo]
        for training, outcome in zip(todo, outcomes, strict=True):
            on_done(training, outcome)
        return outcomes

    monkeypatch.setattr(trainings, "run_trainings", run_here)
    make_data(plan)
    training = plan.teacher
    assert training is not None
    Path(training.folder).mkdir(parents=True)
    (Path(training.folder) / RESUME).touch()
    said = Said()
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        train_all([training], plan, said, store)
        (row,) = store.trainings()
    assert row.reason == f"trained again, because of a damaged {RESUME}"
    assert said.lines == [f"{training.name}: {row.reason}"]
