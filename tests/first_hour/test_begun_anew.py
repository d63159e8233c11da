"""A search that has no score yet locks nobody out: it begins anew, under a corrected config."""

from __future__ import annotations

from pathlib import Path

import pytest
from detkds.db import Store
from detkds.search.api import Silent
from detkds.search.plans.plan import Plan, make_plan
from detkds.search.run import _begin, _goes_on, check_name
from detkds.settings import load_config
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse

ALONE = Distiller((), name="none")
UNSCORED = [Outcome.failed("KeyError: Adamw"), Outcome.rejected("loss is NaN")]


class Told(Silent):
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Plan]:
    """A plan and the corrected one; trials of both would not compare."""
    folder = tmp_path_factory.mktemp("work")
    wrong = make_plan(load_config("quickstart"), folder)
    right = make_plan(load_config("quickstart", ["trial.optim_wrapper.optimizer.lr=0.001"]), folder)
    assert wrong.conditions != right.conditions
    return wrong, right


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as opened:
        yield opened


def add_trial(store: Store, search_id: int, number: int, outcome: Outcome | None) -> None:
    trial = store.add_trial(search_id, Candidate(number, "start", ALONE), number, "conditions", 0)
    if outcome is not None:
        store.tell_trial(trial, outcome, number)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("outcomes", [[], [None], UNSCORED])
def test_a_corrected_config_begins_a_search_without_scores_anew(store, plans, outcomes, resume):
    wrong, right = plans
    first = _begin(wrong, store, "cells", [ALONE], Told())
    for number, outcome in enumerate(outcomes):
        add_trial(store, first.id, number, outcome)
    check_name(right, store, "cells", resume)
    assert not _goes_on(right, store, "cells", resume)
    display = Told()
    again = _begin(right, store, "cells", [ALONE], display)
    assert display.said == ["the search 'cells' had no score yet: it begins anew"]
    assert (again.id, again.conditions) == (first.id, right.conditions)
    assert again.config["trial"] == right.record["trial"]
    assert store.trials(again.id) == []


def test_the_same_config_resumes_a_search_that_has_no_score(store, plans):
    wrong, _ = plans
    first = _begin(wrong, store, "cells", [ALONE], Told())
    add_trial(store, first.id, 0, Outcome.rejected("loss is NaN"))
    assert _goes_on(wrong, store, "cells", resume=True)
    assert not _goes_on(wrong, store, "cells", resume=False)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.STOPPED])
def test_a_search_with_a_score_is_never_begun_anew(store, plans, status):
    wrong, right = plans
    first = _begin(wrong, store, "cells", [ALONE], Told())
    add_trial(
        store, first.id, 0, Outcome(status, score=0.1 if status is Status.COMPLETED else None)
    )
    with pytest.raises(WrongUse, match=r"a search 'cells' is in .* already: resume it or give"):
        check_name(right, store, "cells", resume=False)
    with pytest.raises(WrongUse, match=r"would not compare: trial\.optim_wrapper changed"):
        check_name(right, store, "cells", resume=True)
    assert _goes_on(wrong, store, "cells", resume=True)
    with pytest.raises(WrongUse, match="has 1 scored trials: resume it"):
        store.begin_anew(first.id, right.record, right.conditions, right.seed)
    assert len(store.trials(first.id)) == 1
