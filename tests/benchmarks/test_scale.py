"""The simulated cluster: what it counts, with the controller and a store of real searches."""

from __future__ import annotations

from pathlib import Path

import pytest
from detkds.db import Store
from detkds.settings import Search
from scale import SECONDS, SPREAD, simulate

SMALL = {"population": 3, "iterations": 2, "weights": 4, "space": "detkds", "early_stop": False}


def test_workers_are_counted_while_they_have_a_trial(tmp_path: Path) -> None:
    settings = Search(start=[], **SMALL)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        one, many = (simulate(settings, workers, store) for workers in (1, 40))
        assert len(store.trials(None)) >= one.trials + many.trials
    assert one.in_use == pytest.approx(1)
    assert one.hours * 3600 / one.trials == pytest.approx(SECONDS, rel=SPREAD)
    assert many.in_use < 0.7, "more workers than the search has candidates at a time"
    assert many.hours < one.hours / 4
    assert one.driver > 0
