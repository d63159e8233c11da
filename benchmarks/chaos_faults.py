"""What strikes a search, where, and how often: data alone, and the plan that is drawn from it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

#: What a driver does for a trial, in its order. ``statement`` and ``commit`` are the database's, in
#: any of them and in a resume, too; a fault at a commit strikes before it.
STEPS = ("ask", "add", "dispatch", "result", "store", "tell")
PLACES = tuple(product(STEPS, (False, True)))
INSIDE = (("statement", False), ("statement", True), ("commit", False))

SQLITE, POSTGRESQL = "sqlite", "postgresql"
BOTH = (SQLITE, POSTGRESQL)


@dataclass(frozen=True)
class Kind:
    """A kind of fault. ``share``: of all faults. ``ends``: the driver's process ends by it.

    ``places``: the steps that it strikes at, each before or after. ``stores``: what it can strike.
    """

    name: str
    share: float
    ends: bool
    places: tuple[tuple[str, bool], ...] = PLACES
    stores: tuple[str, ...] = BOTH


KILLED, TERMINATED, FROZEN, SECOND = "killed", "SIGTERM", "frozen", "two drivers"
LOCKED, FULL, LOG_FULL = "store locked", "store's disk full", "store's and log's disk full"
READ_ONLY = "store read-only at a start"
RESTARTED, AWAY = "PostgreSQL crashed", "PostgreSQL away"
FAILED_OVER, CUT = "PostgreSQL failed over", "connections cut"

KINDS = (
    Kind(KILLED, 0.50, True, PLACES + INSIDE),
    Kind(TERMINATED, 0.20, True, PLACES + INSIDE),
    Kind(FROZEN, 0.04, True),
    Kind(SECOND, 0.05, False),
    Kind(LOCKED, 0.03, False, stores=(SQLITE,)),
    Kind(FULL, 0.03, False, stores=(SQLITE,)),
    Kind(LOG_FULL, 0.02, False, stores=(SQLITE,)),
    Kind(READ_ONLY, 0.03, True, (("start", False),), (SQLITE,)),
    Kind(RESTARTED, 0.03, False, stores=(POSTGRESQL,)),
    Kind(AWAY, 0.02, False, stores=(POSTGRESQL,)),
    Kind(FAILED_OVER, 0.02, False, stores=(POSTGRESQL,)),
    Kind(CUT, 0.03, False, stores=(POSTGRESQL,)),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Fault:
    """One fault: it strikes when the driver comes to the place for the ``call``-th time."""

    kind: str
    step: str
    after: bool
    call: int

    @property
    def ends(self) -> bool:
        return BY_NAME[self.kind].ends

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        return f"{self.kind}, {when} {self.step} {self.call}"


def plan(faults: int, trials: int, store: str, seed: int) -> list[Fault]:
    """So many faults over so many trials, each kind's places in turn; the order is by chance."""
    rng = random.Random(f"{seed}/{store}")
    kinds = [kind for kind in KINDS if store in kind.stores]
    whole = sum(kind.share for kind in kinds)
    most = max(1, 2 * trials // faults - 1)
    found = []
    for kind in kinds:
        places = list(kind.places)
        rng.shuffle(places)
        for index in range(max(1, round(faults * kind.share / whole))):
            step, after = places[index % len(places)]
            # A trial comes to a step once, and takes a dozen statements.
            call = rng.randint(1, 12 * most if step in ("statement", "commit") else most)
            found.append(Fault(kind.name, step, after, call))
    rng.shuffle(found)
    return found
