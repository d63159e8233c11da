"""What one stage of a search may propose: the description that every algorithm is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ...space import WEIGHTS_STAGE, Distiller, SearchSpace, Term

#: One choice of a slot: an option's name or a weight.
Choice = str | float


@dataclass(frozen=True)
class TermStage:
    """A stage that proposes distillers of one term: one knowledge, any of its options.

    ``start``: terms of this knowledge to try before others.
    """

    space: SearchSpace
    knowledge: str
    start: tuple[Term, ...] = ()

    @property
    def name(self) -> str:
        return self.knowledge

    @property
    def first(self) -> tuple[Distiller, ...]:
        """The distillers to try before others."""
        return tuple(Distiller((term,)) for term in self.start)

    @property
    def slots(self) -> list[tuple[Choice, ...]]:
        """The choices per slot; one choice per slot makes a distiller."""
        return self.space.slots(self.knowledge)

    def encode(self, distiller: Distiller) -> list[Choice]:
        """The distiller's choice per slot."""
        return self.space.encode(distiller.terms[0])

    def decode(self, choices: Sequence[Choice]) -> Distiller:
        """The distiller that these choices make, one choice per slot."""
        return Distiller((self.space.decode(self.knowledge, list(choices)),))

    def random(self, rng: Random) -> Distiller:
        """A distiller drawn uniformly over the slots."""
        return Distiller((self.space.random(self.knowledge, rng),))

    def mutate(self, distiller: Distiller, rng: Random) -> Distiller:
        """The distiller with another choice in one slot."""
        return Distiller((self.space.mutate(distiller.terms[0], rng),))

    def crossover(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """A distiller that takes each slot's choice from one of two others."""
        return Distiller((self.space.crossover(first.terms[0], second.terms[0], rng),))


@dataclass(frozen=True)
class WeightStage:
    """A stage that proposes weights for the terms that the other stages found; 0 drops a term.

    ``found``: the terms with the weights they were found with. A slot is the weight of one term.
    No search can use weights that are all 0: ``decode`` accepts them, but ``random``, ``mutate``
    and ``crossover`` never propose them.
    """

    space: SearchSpace
    found: Distiller

    @property
    def name(self) -> str:
        return WEIGHTS_STAGE

    @property
    def first(self) -> tuple[Distiller, ...]:
        """The distillers to try before others."""
        return (self.found,)

    @property
    def slots(self) -> list[tuple[Choice, ...]]:
        """The choices per slot; one choice per slot makes a distiller."""
        return [self.space.weights(term.knowledge) for term in self.found.terms]

    def encode(self, distiller: Distiller) -> list[Choice]:
        """The distiller's choice per slot."""
        return [term.weight for term in distiller.terms]

    def decode(self, choices: Sequence[Choice]) -> Distiller:
        """The distiller that these choices make, one choice per slot."""
        pairs = zip(self.found.terms, choices, strict=True)
        return self.found.with_weights({term.knowledge: float(weight) for term, weight in pairs})

    def random(self, rng: Random) -> Distiller:
        """A distiller drawn uniformly over the slots."""
        return self.space.random_weights(self.found, rng)

    def mutate(self, distiller: Distiller, rng: Random) -> Distiller:
        """The distiller with another choice in one slot."""
        return self.space.mutate_weights(distiller, rng)

    def crossover(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """A distiller that takes each slot's choice from one of two others."""
        return self.space.crossover_weights(first, second, rng)


#: Both kinds of stage have the same methods, so that most algorithms need not tell them apart.
Stage = TermStage | WeightStage
