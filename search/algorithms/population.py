"""A population that remembers the best it ever saw: what the evolutions share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ...space import Candidate, Distiller, Outcome


@dataclass
class Population:
    """Scored distillers, of which the worst can be dropped. Of equals the earlier is the better."""

    members: list[tuple[Candidate, Outcome]] = field(default_factory=list)
    best: tuple[Candidate, Outcome] | None = None

    def __len__(self) -> int:
        return len(self.members)

    def see(self, candidate: Candidate, outcome: Outcome) -> None:
        """Remember a completed candidate if none better was seen, member or not."""
        if self.best is None or _rank((candidate, outcome)) > _rank(self.best):
            self.best = (candidate, outcome)

    def add(self, candidate: Candidate, outcome: Outcome) -> None:
        self.members.append((candidate, outcome))

    def drop_worst(self) -> None:
        self.members.remove(min(self.members, key=_rank))

    def parent(self, ratio: float, top_k: int, rng: random.Random) -> Distiller:
        """One of the top k of a pool that holds ``ratio`` of the members, drawn at random."""
        size = max(1, round(ratio * len(self.members)))
        pool = rng.sample(self.members, size)
        ranked = sorted(pool, key=_rank, reverse=True)
        return rng.choice(ranked[:top_k])[0].distiller


def _rank(member: tuple[Candidate, Outcome]) -> tuple[float, int]:
    candidate, outcome = member
    assert outcome.score is not None
    return outcome.score, -candidate.number
