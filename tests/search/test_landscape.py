"""Every algorithm finds more than random search does, on simulated landscapes of the same seeds."""

from __future__ import annotations

import statistics
from functools import cache

import pytest
from detkds.search.algorithms import ALGORITHMS
from landscape import search

pytestmark = pytest.mark.slow

#: By algorithm: the number of searches, their candidates, and the least mean lead over random
#: search in true score, of which :data:`landscape.MOST`, 0.15, is the most that a distiller gains.
LEADS = {
    "algorithm1": (24, 200, 0.008),
    "regularized_evolution": (24, 200, 0.008),
    "mcts": (16, 200, 0.005),
    "thompson": (5, 80, 0.008),
    "optuna:nsga2": (12, 200, 0.005),
    "optuna:tpe": (4, 100, 0.008),
    "optuna:cmaes": (4, 200, 0.005),
}


@cache
def at_random(seed: int, count: int) -> float:
    return search("random", seed, (count,))[0]


@pytest.mark.parametrize("algorithm", LEADS)
def test_an_algorithm_beats_random_search(algorithm):
    searches, count, least = LEADS[algorithm]
    leads = [
        search(algorithm, seed, (count,))[0] - at_random(seed, count) for seed in range(searches)
    ]
    assert statistics.mean(leads) > least


def test_no_algorithm_is_left_out():
    assert {*LEADS, "random", "optuna:gp"} == {*ALGORITHMS}
