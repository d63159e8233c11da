"""What one stage of a search may propose: the description that every algorithm is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from ...settings import Search
from ...space import WEIGHTS_STAGE, Distiller, SearchSpace, Term, WeightIn

#: One choice of a slot: an option's name or a weight.
Choice = str | float
#: The name of the stage over whole distillers.
WHOLE_STAGE = "whole"


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

    def planned(self, settings: Search) -> int:
        """How many candidates Algorithm 1 takes: P, and two an iteration."""
        return settings.population + 2 * settings.iterations

    @cached_property
    def slots(self) -> list[tuple[Choice, ...]]:
        """The choices per slot; one choice per slot makes a distiller.

        A weight may be that of a start term.
        """
        *options, weights = self.space.slots(self.knowledge)
        return [*options, _with_weights_of(self.space, self.start, weights)]

    def idle(self, chosen: Sequence[Choice]) -> bool:
        """Whether the slot after these choices changes nothing: never."""
        return False

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

    def fewer(self, distiller: Distiller, number: int, rng: Random) -> Distiller:
        """The distiller: it has one term."""
        return distiller


@dataclass(frozen=True)
class WeightStage:
    """A stage that proposes weights for the terms that the other stages found; 0 drops a term.

    ``found``: the terms with the weights they were found with. A slot is the weight of one term.
    Weights that are all 0 are the student alone, which needs no search: ``decode`` accepts them,
    but ``random``, ``mutate`` and ``crossover`` never propose them.
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

    def planned(self, settings: Search) -> int:
        """How many candidates the stage takes."""
        return settings.weights

    @cached_property
    def slots(self) -> list[tuple[Choice, ...]]:
        """The choices per slot; one choice per slot makes a distiller."""
        return [
            _with_weights_of(self.space, [term], self.space.weights(term.knowledge))
            for term in self.found.terms
        ]

    def idle(self, chosen: Sequence[Choice]) -> bool:
        """Whether the slot after these choices changes nothing: never."""
        return False

    def encode(self, distiller: Distiller) -> list[Choice]:
        """The distiller's choice per slot."""
        return [self.space.weight(term) for term in distiller.terms]

    def decode(self, choices: Sequence[Choice]) -> Distiller:
        """The distiller that these choices make, one choice per slot."""
        pairs = zip(self.found.terms, choices, strict=True)
        weights = {term.knowledge: weight for term, weight in pairs if not isinstance(weight, str)}
        return self.space.weighed(self.found, weights)

    def random(self, rng: Random) -> Distiller:
        """A distiller drawn uniformly over the slots."""
        return self.space.random_weights(self.found, rng)

    def mutate(self, distiller: Distiller, rng: Random) -> Distiller:
        """The distiller with another choice in one slot."""
        return self.space.mutate_weights(distiller, rng)

    def crossover(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """A distiller that takes each slot's choice from one of two others."""
        return self.space.crossover_weights(first, second, rng)

    def fewer(self, distiller: Distiller, number: int, rng: Random) -> Distiller:
        """The distiller with at most so many of its terms, drawn at random; others get weight 0."""
        dropped = rng.sample(distiller.active, max(0, len(distiller.active) - number))
        return self.space.weighed(distiller, {term.knowledge: 0.0 for term in dropped})


@dataclass(frozen=True)
class WholeStage:
    """A stage that proposes whole distillers: terms of any kinds of knowledge, and their weights.

    ``first``: the distillers to try before others. Every kind of knowledge has its slots: the
    weight first, where 0 drops the term, then the options, which change nothing without a term.
    Weights that are all 0 are the student alone: ``decode`` accepts them, but ``random``,
    ``mutate`` and ``crossover`` never propose them.
    """

    space: SearchSpace
    first: tuple[Distiller, ...] = ()

    @property
    def name(self) -> str:
        return WHOLE_STAGE

    def planned(self, settings: Search) -> int:
        """``search.trials``, or as many candidates as Algorithm 1 takes for the same space."""
        kinds = self.space.knowledge
        each = sum(TermStage(self.space, one).planned(settings) for one in kinds)
        return settings.trials or each + (settings.weights if len(kinds) > 1 else 0)

    @cached_property
    def _known(self) -> list[Term]:
        """The terms of the start distillers, each once."""
        return list(dict.fromkeys(term for one in self.first for term in one.active))

    @cached_property
    def _slots(self) -> dict[str, list[tuple[Choice, ...]]]:
        """The slots of each kind of knowledge, the weight first."""
        found = {}
        for knowledge in self.space.knowledge:
            known = [term for term in self._known if term.knowledge == knowledge]
            weights = _with_weights_of(self.space, known, self.space.weights(knowledge))
            found[knowledge] = [weights, *self.space.slots(knowledge)[:-1]]
        return found

    @cached_property
    def slots(self) -> list[tuple[Choice, ...]]:
        """The choices per slot; one choice per slot makes a distiller.

        A weight may be that of a start distiller.
        """
        return [slot for slots in self._slots.values() for slot in slots]

    @cached_property
    def _weight_slots(self) -> list[int]:
        """For each slot, the place of the weight that the slot belongs to."""
        found: list[int] = []
        for slots in self._slots.values():
            found += [len(found)] * len(slots)
        return found

    def idle(self, chosen: Sequence[Choice]) -> bool:
        """Whether the slot after these choices changes nothing: an option without a term."""
        weight = self._weight_slots[len(chosen)]
        return weight < len(chosen) and not chosen[weight]

    def encode(self, distiller: Distiller) -> list[Choice]:
        """The distiller's choice per slot; the first choice in slots that change nothing."""
        terms = {term.knowledge: term for term in distiller.active}
        choices: list[Choice] = []
        for knowledge, slots in self._slots.items():
            if knowledge in terms:
                *options, weight = self.space.encode(terms[knowledge])
                choices += [weight, *options]
            else:
                choices += [slot[0] for slot in slots]
        return choices

    def decode(self, choices: Sequence[Choice]) -> Distiller:
        """The distiller that these choices make, one choice per slot."""
        left = list(choices)
        terms = []
        for knowledge, slots in self._slots.items():
            (weight, *options), left = left[: len(slots)], left[len(slots) :]
            if weight:
                terms.append(self.space.decode(knowledge, [*options, weight]))
        return Distiller(tuple(terms))

    def random(self, rng: Random) -> Distiller:
        """A random distiller, of few terms more often than of many."""
        return self.space.random_distiller(rng)

    def mutate(self, distiller: Distiller, rng: Random) -> Distiller:
        """The distiller with one change; a term more may be that of a start distiller."""
        return self.space.mutate_distiller(distiller, rng, self._known)

    def crossover(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """A distiller that takes each kind's term from one of two others, mostly a union."""
        return self.space.crossover_distillers(first, second, rng)

    def fewer(self, distiller: Distiller, number: int, rng: Random) -> Distiller:
        """The distiller with at most so many of its terms, drawn at random."""
        kept = rng.sample(distiller.active, min(number, len(distiller.active)))
        return Distiller(tuple(term for term in distiller.active if term in kept))


def _with_weights_of(
    space: SearchSpace, terms: Iterable[Term], weights: Sequence[Choice]
) -> tuple[Choice, ...]:
    """These weights and those of the terms, in ascending order, those in another unit last."""
    known = {*map(float, weights), *(space.weight(term) for term in terms)}
    return tuple(sorted(known, key=lambda weight: (isinstance(weight, WeightIn), weight)))


#: All kinds of stage have the same methods, so that most algorithms need not tell them apart.
Stage = TermStage | WeightStage | WholeStage
