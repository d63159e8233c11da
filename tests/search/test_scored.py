"""The score of a search's teacher: measured once, and no reason to end a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from detkds.db import Store
from detkds.db.rows import teacher_ap
from detkds.search.plans.plan import make_data, make_plan
from detkds.search.teachers import scored
from detkds.search.teachers.scored import score_teacher
from detkds.settings import load_config
from detkds.space import Status
from detkds.workers.training import train
from one_process import Said, jobs_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/detkds.db") as opened:
        yield opened


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return jobs_of(scored, monkeypatch)


def test_a_teacher_that_cannot_be_scored_ends_nothing_and_is_scored_later(
    store: Store, tmp_path: Path, jobs: list[object]
) -> None:
    plan = make_plan(load_config("quickstart", tiny.OPTIONS), tmp_path)
    make_data(plan)
    search = store.create_search("a", {}, plan.conditions, 0)
    said = Said()
    assert score_teacher(plan, store, search, said) is None
    (row,) = store.trainings(search.id)
    assert (row.status, row.score) == (Status.FAILED, None)
    assert "teacher.pth" in (row.error or "")
    (line,) = said.lines
    assert line.startswith("teacher: its score failed: ")
    assert teacher_ap([row]) is None

    assert plan.teacher is not None
    assert train(plan.teacher).completed
    Path(plan.proxy[0].annotations).unlink()  # nothing is read but what is scored
    for _ in range(2):
        ap = score_teacher(plan, store, search, said)
        assert ap == teacher_ap(store.trainings(search.id))
        assert ap is not None
    assert len(jobs) == 2, "a known score is not measured again"
    assert len(said.lines) == 2
    assert said.lines[-1].startswith(f"teacher  AP {100 * ap:.1f} on the images that score trials")


def test_without_a_teacher_there_is_no_score(
    store: Store, tmp_path: Path, jobs: list[object]
) -> None:
    options = [*tiny.OPTIONS, "teacher=None", "search.knowledge=['label']"]
    options += ["search.space=extended", "final.compare=['none','found']"]
    plan = make_plan(load_config("quickstart", options), tmp_path)
    search = store.create_search("a", {}, plan.conditions, 0)
    assert score_teacher(plan, store, search, Said()) is None
    assert (jobs, store.trainings(search.id)) == ([], [])
