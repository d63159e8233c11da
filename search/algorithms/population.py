"""A population that remembers the best candidate it ever saw: what the evolutions share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ...space import Candidate, Distiller, Outcome
from .base import Scored, rank


@dataclass
class Population:
    """Scored candidates, of which the worst can be dropped. Of equals the earlier is the better."""

    members: list[Scored] = field(default_factory=list)
    best: Scored | None = None

    def __len__(self) -> int:
        return len(self.members)

    def see(self, candidate: Candidate, outcome: Outcome) -> None:
        """Remember a completed candidate, member or not, if it is the best so far."""
        if self.best is None or rank((candidate, outcome)) > rank(self.best):
            self.best = (candidate, outcome)

    def add(self, candidate: Candidate, outcome: Outcome) -> None:
        self.members.append((candidate, outcome))

    def drop_worst(self) -> None:
        self.members.remove(min(self.members, key=rank))

    def parent(self, ratio: float, top_k: int, rng: random.Random) -> Distiller:
        """A random distiller of the ``top_k`` best in a random pool of ``ratio`` of the members."""
        size = max(1, round(ratio * len(self.members)))
        pool = rng.sample(self.members, size)
        ranked = sorted(pool, key=rank, reverse=True)
        return rng.choice(ranked[:top_k])[0].distiller
