"""What most algorithms share: a number of candidates, and a proposer that says which."""

from __future__ import annotations

from random import Random
from typing import Protocol

from ...settings import Search
from ...space import Candidate, Distiller, Outcome
from .base import MAX_DRAWS, Scored, rank
from .stages import Stage


class Proposer(Protocol):
    """Says what to try next. The same calls in the same order give the same proposals."""

    #: Whether scores change what is proposed.
    learns: bool

    def propose(self, rng: Random) -> Distiller:
        """The next distiller to try. ``rng`` is another generator in every call."""

    def given(self, distiller: Distiller) -> None:
        """A distiller that is tried without having been proposed."""

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        """What became of a distiller that was proposed or given."""


def value(outcome: Outcome) -> float | None:
    """What an algorithm learns from an outcome: the score; None for rejected and failed candidates.

    A candidate that was stopped early counts with its early score: the controller tells the score
    that is expected of it there (:class:`EarlyStop`).
    """
    if outcome.score is not None or not outcome.ranked:
        return outcome.score
    return outcome.early_score or 0.0


class Budgeted:
    """The ask and tell of a proposer: the stage's first distillers, then proposals.

    A candidate that is rejected or fails does not count; another is proposed for it, but no more
    than :data:`MAX_DRAWS` candidates are for each that is planned. The algorithm never waits for
    outcomes, and an ask that finds nothing changes nothing.
    """

    def __init__(self, stage: Stage, settings: Search, rng: Random, proposer: Proposer) -> None:
        self._stage, self._proposer = stage, proposer
        self.planned = stage.planned(settings)
        self._first = stage.first[: self.planned]
        self._seed = rng.getrandbits(64)
        self._number = self._scored = 0
        self._open: set[int] = set()
        self.best: Scored | None = None

    def ask(self) -> Candidate | None:
        if self._enough or self._scored + len(self._open) >= self.planned:
            return None
        if self._number < len(self._first):
            distiller = self._first[self._number]
            self._proposer.given(distiller)
        else:
            distiller = self._proposer.propose(Random(f"{self._seed}/{self._number}"))
        candidate = Candidate(self._number, self._stage.name, distiller)
        self._open.add(self._number)
        self._number += 1
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._open.remove(candidate.number)
        self._scored += outcome.ranked
        self._proposer.told(candidate.distiller, outcome)
        scored = (candidate, outcome)
        if outcome.completed and (self.best is None or rank(scored) > rank(self.best)):
            self.best = scored

    @property
    def _enough(self) -> bool:
        return self._scored >= self.planned or self._number >= MAX_DRAWS * self.planned

    @property
    def done(self) -> bool:
        return self._enough and not self._open

    @property
    def learns(self) -> bool:
        return self._proposer.learns

    @property
    def bar(self) -> float | None:
        """The best score, if the proposer learns nothing from scores; else any score matters."""
        return None if self._proposer.learns or self.best is None else self.best[1].score
