"""Random search: every candidate is drawn by itself."""

from __future__ import annotations

from random import Random

from ...settings import Search
from ...space import Distiller, Outcome
from .base import Algorithm
from .budget import Budgeted
from .stages import Stage


def random_search(stage: Stage, settings: Search, rng: Random) -> Algorithm:
    """Draw every candidate at random: what a search that learns is compared with."""
    return Budgeted(stage, settings, rng, RandomProposer(stage))


class RandomProposer:
    """Proposes what the stage draws."""

    learns = False

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def propose(self, rng: Random) -> Distiller:
        return self._stage.random(rng)

    def given(self, distiller: Distiller) -> None:
        pass

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        pass
