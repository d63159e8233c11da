"""Regularized evolution (Real et al., AAAI 2019): the oldest member leaves, not the worst."""

from __future__ import annotations

from collections import deque
from random import Random

from ...settings import Search
from ...space import Distiller, Outcome
from .base import Algorithm
from .budget import Budgeted, value
from .stages import Stage

#: The share of the population that takes part in a tournament: 25 of 100 in the paper.
TOURNAMENT = 0.25


def regularized_evolution(stage: Stage, settings: Search, rng: Random) -> Algorithm:
    """Real et al.'s Algorithm 1, with ``search.population`` members.

    Random distillers fill the population, as far as the stage's first do not; where these are more,
    the population is larger. Then every child is the mutant of the best of a random sample of
    members, and takes the place of the oldest. Children are asked for side by side with what they
    do not wait for.
    """
    size = max(settings.population, len(stage.first))
    return Budgeted(stage, settings, rng, AgingEvolution(stage, size))


class AgingEvolution:
    """The population: ``size`` members, the oldest first, each with its value."""

    learns = True

    def __init__(self, stage: Stage, size: int) -> None:
        self._stage, self._size = stage, size
        self._members: deque[tuple[float, Distiller]] = deque(maxlen=size)
        #: How many distillers are in the population, or will be unless they are rejected.
        self._expected = 0

    def propose(self, rng: Random) -> Distiller:
        """A random distiller until as many as the population holds are tried, then a child."""
        self._expected += 1
        if self._expected <= self._size or not self._members:
            return self._stage.random(rng)
        sample = rng.choices(self._members, k=max(2, round(TOURNAMENT * len(self._members))))
        return self._stage.mutate(max(sample, key=lambda member: member[0])[1], rng)

    def given(self, distiller: Distiller) -> None:
        self._expected += 1

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        """Add a scored distiller, in whose place the oldest leaves. Others are drawn again."""
        scored = value(outcome)
        if scored is None:
            self._expected -= 1
        else:
            self._members.append((scored, distiller))
