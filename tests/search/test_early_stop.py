"""Which trials are stopped early, and what an algorithm is told of a trial that was."""

from __future__ import annotations

from random import Random

import pytest
from detkds.search.algorithms import EarlyStop, Listed
from detkds.search.algorithms.early_stop import LEAST
from detkds.search.controller import Controller
from detkds.settings import Search
from detkds.space import Distiller, Outcome, SearchSpace, Status


class Learner:
    """What early stopping sees of an algorithm that learns from every score."""

    bar, learns = None, True


def told(early_stop: EarlyStop, early: float, score: float) -> Outcome:
    return early_stop.told(Outcome(Status.COMPLETED, score=score, early_score=early))


def test_the_best_third_of_early_scores_goes_on():
    early_stop = EarlyStop()
    for number in range(LEAST):
        assert early_stop.bar(Learner()) == 0.0, "too few show how early scores and scores go"
        told(early_stop, number / 100, 0.3)
    assert early_stop.bar(Learner()) == 0.07, "3 of 10"
    for early in (0.5, 0.6):  # two of the best third and five of the others
        told(early_stop, early, 0.4)
    for _ in range(3):
        early_stop.told(Outcome(Status.STOPPED, early_score=0.001))
    assert early_stop.bar(Learner()) == 0.07, "5 of 15"


def test_early_scores_of_nothing_stop_nothing():
    early_stop = EarlyStop()
    for _ in range(LEAST):
        told(early_stop, 0.0, 0.3)
    assert early_stop.bar(Learner()) is None


def test_a_stopped_trial_counts_with_the_score_that_it_would_have_had():
    early_stop = EarlyStop()
    for number in range(LEAST):
        outcome = told(early_stop, number / 100, 0.1 + number / 50)
        assert outcome.early_score == number / 100, "what completed is told as it is"
    stopped = early_stop.told(Outcome(Status.STOPPED, early_score=0.035))
    assert stopped.early_score == pytest.approx(0.1 + 2 * 0.035)


@pytest.mark.parametrize(
    "scores", [lambda n: 0.5 - n / 50, lambda n: 0.3], ids=["falling", "equal"]
)
def test_a_higher_early_score_is_never_worth_less(scores):
    early_stop = EarlyStop()
    for number in range(LEAST):
        told(early_stop, number / 100, scores(number))
    low, high = (
        early_stop.told(Outcome(Status.STOPPED, early_score=early)).early_score
        for early in (0.01, 0.05)
    )
    assert low <= high
    assert low == pytest.approx(sum(map(scores, range(LEAST))) / LEAST)


def test_rejected_and_failed_trials_teach_nothing():
    early_stop = EarlyStop()
    for status in (Status.REJECTED, Status.FAILED):
        outcome = Outcome(status)
        assert early_stop.told(outcome) is outcome
    assert early_stop.bar(Learner()) == 0.0


def test_the_distillers_that_a_search_with_stages_starts_from_are_trained_to_the_end():
    early_stop = EarlyStop()
    for number in range(LEAST):
        told(early_stop, number / 100, 0.2)
    assert early_stop.bar(Listed([])) is None


SETTINGS = Search(algorithm="thompson", divide=False, trials=60)


def searched(early_stop: bool, seed: int) -> tuple[Controller, float, list[float | None]]:
    """A search of which early scores are half of the scores and noise, its cost, and its bars."""
    settings = SETTINGS.model_copy(update={"early_stop": early_stop})
    space = SearchSpace.preset("detkds").only(["global", "logits"])
    alone = Distiller(())
    controller = Controller(space, settings, seed, [alone])
    cost, bars = 0.0, []
    while (candidate := controller.ask()) is not None:
        bars.append(candidate.early_bar)
        rng = Random(candidate.distiller.key)
        worth = sum(
            {"pearson": 0.2, "kl": 0.1}.get(t.distance, 0) for t in candidate.distiller.active
        )
        score = 0.2 + worth + 0.02 * rng.random()
        early = score / 2 + 0.02 * rng.random()
        if candidate.early_bar is not None and early < candidate.early_bar:
            outcome = Outcome(Status.STOPPED, early_score=early)
        else:
            outcome = Outcome(Status.COMPLETED, score=score, early_score=early)
        cost += 0.5 if outcome.status is Status.STOPPED else 1.0
        controller.tell(candidate, outcome)
    assert bars[0] in (0.0, None), "the student alone is trained to the end"
    return controller, cost, bars


@pytest.mark.slow
def test_a_search_that_learns_stops_trials_and_finds_as_good_a_distiller():
    for seed in range(3):
        (whole, dear, _), (early, cheap, bars) = (searched(one, seed) for one in (False, True))
        assert any(bars)
        assert cheap < 0.9 * dear
        assert early.best[1].score > whole.best[1].score - 0.03
