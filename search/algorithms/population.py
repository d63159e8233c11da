"""A population that remembers the best candidate it ever saw: what the evolutions share.

Parents are drawn by rank, and no member below the rank that :func:`last_parent` gives is a parent.
The score at a rank never falls, since others join and only the worst leave. So a candidate whose
score is below that of the member at this rank changes nothing that comes after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ...settings import Search
from ...space import Candidate, Distiller, Outcome
from .base import Scored, rank


@dataclass
class Population:
    """Candidates, of which the worst can be dropped. Of equals the earlier is the better.

    ``size``: the largest number of members.
    """

    settings: Search
    size: int
    members: list[Scored] = field(default_factory=list)
    best: Scored | None = None

    def __len__(self) -> int:
        return len(self.members)

    def see(self, candidate: Candidate, outcome: Outcome) -> None:
        """Remember a candidate, member or not, if it completed and is the best so far."""
        scored = (candidate, outcome)
        if outcome.completed and (self.best is None or rank(scored) > rank(self.best)):
            self.best = scored

    def add(self, candidate: Candidate, outcome: Outcome) -> None:
        self.members.append((candidate, outcome))

    def drop_worst(self) -> None:
        self.members.remove(min(self.members, key=rank))

    def parent(self, rng: random.Random) -> Distiller:
        """A random distiller of the k best in a random pool of a share r of the members."""
        ranked = sorted(self.members, key=rank, reverse=True)
        size = pool_size(len(ranked), self.settings.sample_ratio)
        pool = sorted(rng.sample(range(len(ranked)), size))
        return ranked[rng.choice(pool[: self.settings.top_k])][0].distiller

    @property
    def bar(self) -> float | None:
        """The score of the last member that can be a parent; None without such a member."""
        settings = self.settings
        last = last_parent(self.size, settings.sample_ratio, settings.top_k)
        scores = sorted((o.score for _, o in self.members if o.score is not None), reverse=True)
        return scores[last - 1] if len(scores) >= last else None


def pool_size(members: int, ratio: float) -> int:
    """The size of the pool that a parent is chosen from."""
    return max(1, round(ratio * members))


def last_parent(population: int, ratio: float, top_k: int) -> int:
    """The lowest rank, counted from 1, from which a parent can come.

    A pool leaves some members out; in the worst case these are the best ones. The result is for the
    worst of all sizes up to ``population``.
    """
    sizes = ((members, pool_size(members, ratio)) for members in range(1, population + 1))
    return max(members - size + min(top_k, size) for members, size in sizes)
