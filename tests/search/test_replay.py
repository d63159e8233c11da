"""Every algorithm resumes by replay: equal asks and outcomes give equal candidates."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

import pytest
from detkds.search.algorithms import ALGORITHMS, thompson
from detkds.search.controller import Controller, Event, replay
from detkds.settings import Search
from detkds.space import Candidate, Distiller, Outcome, SearchSpace, Status

pytestmark = pytest.mark.slow

SPACE = SearchSpace.preset("extended").only(["global", "logits", "mgd"])
START = tuple(
    map(Distiller.parse, ("none", "global: identity, pearson × 3; mgd: hide_65, l2 × 23"))
)


def outcome_of(distiller: Distiller) -> Outcome:
    """A score that most distillers get; others are rejected, fail or are stopped early."""
    rng = random.Random(zlib.crc32(distiller.key.encode()))
    score, fate = round(rng.random(), 2), rng.random()
    if fate < 0.15:
        return Outcome.rejected("loss is NaN")
    if fate < 0.2:
        return Outcome.failed("no space left")
    if fate < 0.3:
        return Outcome(Status.STOPPED, early_score=score / 2, reason="stopped halfway")
    return Outcome(Status.COMPLETED, score=score, early_score=score / 2)


@dataclass
class Run:
    """A search in progress with some workers, and its events as the store has them."""

    controller: Controller
    workers: int
    order: random.Random
    live: list[Candidate] = field(default_factory=list)
    asked: list[tuple[Candidate, int]] = field(default_factory=list)
    told: dict[int, tuple[int, Outcome]] = field(default_factory=dict)

    def play(self, outcomes: int | None = None) -> None:
        """Play on until the search is done or so many outcomes are told."""
        while not self.controller.done and len(self.told) != outcomes:
            while len(self.live) < self.workers:
                candidate = self.controller.ask()
                if candidate is None:
                    break
                self.asked.append((candidate, len(self.told)))
                self.live.append(candidate)
            candidate = self.live.pop(self.order.randrange(len(self.live)))
            outcome = outcome_of(candidate.distiller)
            self.told[candidate.number] = len(self.told), outcome
            self.controller.tell(candidate, outcome)

    @property
    def events(self) -> list[Event]:
        unknown = None, Outcome(Status.QUEUED)
        return [
            Event(candidate, after, *self.told.get(candidate.number, unknown))
            for candidate, after in self.asked
        ]


#: Optuna's Gaussian process takes seconds an ask, but for its first ten.
GP = "optuna:gp"
NAMES = [name if name != GP else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]


def controller(algorithm: str, divide: bool, seed: int) -> Controller:
    settings = {"population": 3, "iterations": 2, "weights": 6}
    settings |= {} if divide else {"trials": 11 if algorithm == GP else 16}
    return Controller(SPACE, Search(algorithm=algorithm, divide=divide, **settings), seed, START)


@pytest.mark.parametrize("workers", [1, 16])
@pytest.mark.parametrize("divide", [True, False], ids=["stages", "whole"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_a_replay_at_any_point_goes_on_as_the_search_did(algorithm, divide, workers, monkeypatch):
    monkeypatch.setattr(thompson, "PROPOSALS", 20)
    for seed in range(1 if algorithm == GP else 2):
        whole = Run(controller(algorithm, divide, seed), workers, random.Random(seed))
        whole.play()
        told = len(whole.told)
        assert whole.controller.done
        fresh = controller(algorithm, divide, seed)
        assert replay(fresh, whole.events) == []
        assert fresh.done
        assert fresh.best == whole.controller.best
        for stop in random.Random(seed).sample(range(told), 1 if algorithm == GP else 3):
            first = Run(controller(algorithm, divide, seed), workers, random.Random(seed))
            first.play(stop)
            resumed = Run(controller(algorithm, divide, seed), workers, first.order)
            still_open = replay(resumed.controller, first.events)
            assert sorted(c.number for c in still_open) == sorted(c.number for c in first.live)
            resumed.live, resumed.asked, resumed.told = first.live, first.asked, first.told
            resumed.play()
            assert resumed.asked == whole.asked
            assert resumed.told == whole.told


@pytest.mark.parametrize("divide", [True, False], ids=["stages", "whole"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_another_seed_is_another_search(algorithm, divide, monkeypatch):
    monkeypatch.setattr(thompson, "PROPOSALS", 20)
    runs = [Run(controller(algorithm, divide, seed), 1, random.Random(0)) for seed in (0, 1)]
    for run in runs:
        run.play()
    first, second = ([candidate.distiller for candidate, _ in run.asked] for run in runs)
    assert first != second


@pytest.mark.parametrize("divide", [True, False], ids=["stages", "whole"])
@pytest.mark.parametrize("algorithm", NAMES)
def test_a_space_of_nothing_but_rejections_ends(algorithm, divide, monkeypatch):
    monkeypatch.setattr(thompson, "PROPOSALS", 20)
    searched = controller(algorithm, divide, 0)
    asked = 0
    while not searched.done:
        searched.tell(searched.ask(), Outcome.rejected("loss is NaN"))
        asked += 1
    assert searched.best is None
    assert asked <= 20 * searched.planned
