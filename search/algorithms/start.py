"""The first stage: the distillers that a search starts from, as they are."""

from __future__ import annotations

from collections.abc import Sequence

from ...space import Candidate, Distiller, Outcome
from .base import Scored, rank

START_STAGE = "start"


class Listed:
    """Asks for each of the given distillers once.

    ``bar`` is None: all are trained to the end, since what is found is compared with them.
    """

    bar = None
    learns = False

    def __init__(self, distillers: Sequence[Distiller]) -> None:
        self._distillers = distillers
        self._number = 0
        self._open: set[int] = set()
        self.best: Scored | None = None
        self.planned = len(distillers)

    def ask(self) -> Candidate | None:
        if self._number == self.planned:
            return None
        candidate = Candidate(self._number, START_STAGE, self._distillers[self._number])
        self._open.add(self._number)
        self._number += 1
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._open.remove(candidate.number)
        scored = (candidate, outcome)
        if outcome.completed and (self.best is None or rank(scored) > rank(self.best)):
            self.best = scored

    @property
    def done(self) -> bool:
        return self._number == self.planned and not self._open
