"""The linear model behind Thompson sampling: it learns what is additive, and knows its doubts."""

from __future__ import annotations

from random import Random

import numpy as np
from detkds.search.algorithms.thompson import CHOICES, NOISES, LinearModel, features
from detkds.space import Distiller
from landscape import Landscape, shared_space

SPACE = shared_space()
LANDSCAPE = Landscape(SPACE, seed=3)


def drawn(count: int, seed: int) -> list[Distiller]:
    rng = Random(seed)
    return [SPACE.random_distiller(rng) for _ in range(count)]


def measured(distillers: list[Distiller]) -> list[float]:
    rng = Random(0)
    return [LANDSCAPE.true_score(one) + rng.gauss(0, LANDSCAPE.noise) for one in distillers]


def fitted(count: int) -> LinearModel:
    known = drawn(count, seed=0)
    return LinearModel([features(one) for one in known], measured(known))


def test_it_ranks_distillers_that_it_has_not_seen():
    new = drawn(300, seed=1)
    truth = [LANDSCAPE.true_score(one) for one in new]
    few, many = (fitted(count).expected([features(one) for one in new]) for count in (20, 300))
    assert np.corrcoef(many, truth)[0, 1] > 0.6
    assert np.corrcoef(many, truth)[0, 1] > np.corrcoef(few, truth)[0, 1]


def test_draws_scatter_around_what_is_expected_the_less_the_more_is_known():
    rows = [features(one) for one in drawn(20, seed=1)]
    spreads = []
    for count in (20, 300):
        model, rng = fitted(count), Random(0)
        draws = np.array([model.drawn(rows, rng) for _ in range(400)])
        spreads.append(draws.std(axis=0))
        error = np.abs(draws.mean(axis=0) - model.expected(rows)) / draws.std(axis=0)
        assert error.max() < 0.25
    assert spreads[1].mean() < 0.7 * spreads[0].mean()


def test_a_pair_and_a_weight_are_features():
    one = features(Distiller.parse("global: catt, l1 × 10; mgd: hide_65, l2 × 0.1"))
    assert one["pair", "global", "mgd"] == one["kind", "mgd"] == 1
    assert one["weight", "global", "plain", 1] == 1
    assert one["weight", "mgd", "plain", 1] == -1
    assert one["choice", "global", 0, "catt"] == 1
    assert features(Distiller(())) == {("mean",): 1.0}


def test_the_prior_is_the_one_that_the_scores_speak_for():
    """Scores by chance leave nothing to be expected; those of few choices have their variance."""
    known = drawn(120, seed=0)
    rows, rng = [features(one) for one in known], Random(0)
    chance = LinearModel(rows, [rng.gauss(0, 1) for _ in known])
    assert (chance.noise, chance.prior["choice"]) == (max(NOISES), min(CHOICES))
    assert chance.expected(rows).std() < 0.3
    worth = {choice: rng.gauss(0, 1) for row in rows for choice in row if choice[0] == "choice"}
    clear = LinearModel(rows, [sum(worth.get(choice, 0.0) for choice in row) for row in rows])
    assert clear.noise == min(NOISES)
    assert clear.prior["choice"] > min(CHOICES)
    assert clear.expected(rows).std() > 0.8


def test_what_no_score_has_shown_may_matter_as_much_as_any():
    """However little the shown choices matter, a new one is worth a try."""
    rows = [features(one) for one in drawn(120, seed=0)]
    model = LinearModel(rows, [Random(number).gauss(0, 1) for number in range(120)])
    known = {("mean",): 1.0}
    new = {**known, ("choice", "global", 3, "another"): 1.0}
    draws = np.array([model.drawn([known, new], Random(seed)) for seed in range(600)])
    spread = (draws[:, 1] - draws[:, 0]).std()
    assert 0.9 < spread / np.sqrt(max(CHOICES)) < 1.1
    assert model.prior["choice"] < max(CHOICES) / 10
