"""What every algorithm is: it proposes candidates and is told their outcomes, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from ...settings import Search
from ...space import Candidate, Outcome
from .stages import Stage

#: A search gives up on a candidate's place after so many candidates for it were rejected or failed.
MAX_DRAWS = 20

#: A candidate that completed or was stopped early, and its outcome.
Scored = tuple[Candidate, Outcome]


class Algorithm(Protocol):
    """Ask and tell for one stage. An algorithm knows no worker and no database.

    Outcomes may be told in any order, and more asks may come between. Equal asks and outcomes in
    equal order, from an equal random generator, must give equal candidates: a search is resumed by
    replaying them.

    >>> while not algorithm.done:                                     # doctest: +SKIP
    ...     candidate = algorithm.ask()
    ...     algorithm.tell(candidate, score(candidate))
    """

    def ask(self) -> Candidate | None:
        """The next candidate, numbered from 0; None: wait for outcomes, or look at ``done``."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """The outcome of a candidate. Raises KeyError if the candidate is not an open ask."""

    @property
    def done(self) -> bool:
        """Nothing is left to ask, and every asked candidate has its outcome."""

    @property
    def best(self) -> Scored | None:
        """The completed candidate of the highest score; of equal scores the earliest."""

    @property
    def bar(self) -> float | None:
        """The score below which a candidate asked for now changes nothing that comes after.

        Whatever its score below the bar, the same candidates follow and the same is the best. A
        trial that is bound to stay below may be stopped. None: any score may matter.
        """

    @property
    def learns(self) -> bool:
        """Whether the algorithm learns from every score, and so has no ``bar``.

        It is told of a trial that was stopped what score the trial would have had.
        """

    @property
    def planned(self) -> int:
        """How many candidates the stage takes if none is rejected and none fails."""


#: Makes the algorithm of one stage. Nothing but the random generator may be random in it.
Factory = Callable[[Stage, Search, Random], Algorithm]


def rank(scored: Scored) -> tuple[float, int]:
    """The sort key of candidates: by score, and of equal scores the earliest is best.

    Candidates that were stopped early have no score and rank below all others.
    """
    candidate, outcome = scored
    return -1.0 if outcome.score is None else outcome.score, -candidate.number
