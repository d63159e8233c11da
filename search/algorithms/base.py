"""What every algorithm is: it proposes, and it is told. It knows no worker and no database."""

from __future__ import annotations

from typing import Protocol

from ...space import Candidate, Outcome


class Algorithm(Protocol):
    """Ask and tell; outcomes may be told in any order, and more asks may come between.

    >>> while not algorithm.done:                                     # doctest: +SKIP
    ...     candidate = algorithm.ask()
    ...     algorithm.tell(candidate, score(candidate))
    """

    def ask(self) -> Candidate | None:
        """The next candidate; None: wait for results, or look at ``done``."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """What became of a candidate that was asked for. Raises KeyError for another."""

    @property
    def done(self) -> bool:
        """Nothing is left to ask, and every candidate asked for has been told."""

    @property
    def best(self) -> tuple[Candidate, Outcome] | None:
        """The completed candidate of the highest score, the earliest of equals."""
