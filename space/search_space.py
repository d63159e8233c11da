"""The search space: random terms, mutation, crossover and size, one stage at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random

from .distiller import Distiller, Term
from .errors import WrongUse, nearest
from .options import PRESETS, SHARE, SHARES, KnowledgeOptions

#: In the ``weights`` stage 0, which drops a term, is a choice beside Table 2's weights.
DROP = 0.0


class WeightIn(float):
    """The weight of a start term in another unit than the space's, whose weights never equal it."""

    unit: str

    def __new__(cls, weight: float, unit: str) -> WeightIn:
        made = super().__new__(cls, weight)
        made.unit = unit
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightIn) and float(self) == float(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((float(self), self.unit))


@dataclass(frozen=True)
class SearchSpace:
    """Options per knowledge.

    A term is encoded as a list, a value a slot: the transforms, the distance, the weight's schedule
    where the options hold several, and the weight. The weight of a start term may be in another
    unit than the space's weights (:class:`WeightIn`).
    """

    options: dict[str, KnowledgeOptions]

    @classmethod
    def preset(cls, name: str = "detkds") -> SearchSpace:
        """DetKDS Table 2 (``detkds``), or what hand-made distillers need as well (``extended``).

        Raises :class:`WrongUse` for another name.
        """
        if name not in PRESETS:
            raise WrongUse(f"unknown space preset '{name}': {nearest(name, PRESETS)}")
        return cls(dict(PRESETS[name]))

    def only(self, knowledge: Iterable[str]) -> SearchSpace:
        """The same space without the other kinds of knowledge."""
        chosen = list(knowledge)
        for name in chosen:
            if name not in self.options:
                raise WrongUse(f"unknown knowledge '{name}': {nearest(name, self.options)}")
        return SearchSpace({k: v for k, v in self.options.items() if k in chosen})

    def without(self, knowledge: str, names: Iterable[str]) -> SearchSpace:
        """The same space without these choices of one knowledge."""
        gone, options = set(names), self.options[knowledge]

        def left(choices: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(choice for choice in choices if choice not in gone)

        narrowed = replace(
            options,
            transforms=tuple(left(slot) for slot in options.transforms),
            distances=left(options.distances),
            schedules=left(options.schedules),
        )
        return SearchSpace({**self.options, knowledge: narrowed})

    def in_shares(self) -> SearchSpace:
        """The same space with shares as its weights."""
        options = {
            knowledge: replace(one, weights=SHARES, unit=SHARE)
            for knowledge, one in self.options.items()
        }
        return SearchSpace(options)

    @property
    def knowledge(self) -> tuple[str, ...]:
        return tuple(self.options)

    def to_dict(self) -> dict[str, dict[str, list]]:
        """The options as plain lists, for JSON."""
        return {
            knowledge: {
                "transforms": [list(slot) for slot in options.transforms],
                "distances": list(options.distances),
                "weights": list(options.weights),
                "schedules": list(options.schedules),
            }
            for knowledge, options in self.options.items()
        }

    def __len__(self) -> int:
        """The number of single terms, over all kinds of knowledge."""
        return sum(len(options) for options in self.options.values())

    def slots(self, knowledge: str) -> list[tuple[str | float, ...]]:
        """The choices per slot of a term's encoding."""
        options = self.options[knowledge]
        schedules = [options.schedules] if len(options.schedules) > 1 else []
        return [*options.transforms, options.distances, *schedules, options.weights]

    def encode(self, term: Term) -> list[str | float]:
        """The term's choice per slot; an alias is the choice that it stands for."""
        options = self.options[term.knowledge]
        schedule = [term.schedule] if len(options.schedules) > 1 else []
        own = term.unit == options.unit
        weight = term.weight if own else WeightIn(term.weight, term.unit)
        return [*term.applied, term.distance, *schedule, weight]

    def decode(self, knowledge: str, values: list[str | float]) -> Term:
        options = self.options[knowledge]
        *names, weight = values
        schedule = str(names.pop()) if len(options.schedules) > 1 else options.schedules[0]
        *transforms, distance = map(str, names)
        unit = weight.unit if isinstance(weight, WeightIn) else options.unit
        return Term(knowledge, tuple(transforms), distance, float(weight), schedule, unit=unit)

    def random(self, knowledge: str, rng: Random) -> Term:
        """A term drawn uniformly over its slots."""
        return self.decode(knowledge, [rng.choice(slot) for slot in self.slots(knowledge)])

    def mutate(self, term: Term, rng: Random) -> Term:
        """The term with another choice in one slot, both drawn at random."""
        slots, values = self.slots(term.knowledge), self.encode(term)
        index = rng.choice([i for i, slot in enumerate(slots) if len(slot) > 1])
        values[index] = rng.choice([choice for choice in slots[index] if choice != values[index]])
        return self.decode(term.knowledge, values)

    def crossover(self, first: Term, second: Term, rng: Random) -> Term:
        """A term whose every slot comes from one of two parents of the same knowledge."""
        pairs = zip(self.encode(first), self.encode(second), strict=True)
        return self.decode(first.knowledge, [rng.choice(pair) for pair in pairs])

    def weights(self, knowledge: str) -> tuple[float, ...]:
        """The choices of the ``weights`` stage for one term."""
        return (DROP, *self.options[knowledge].weights)

    def weighed(self, distiller: Distiller, weights: Mapping[str, float]) -> Distiller:
        """The same terms under other weights of the space, given by knowledge."""
        terms = (
            replace(t, weight=weights[t.knowledge], unit=self.options[t.knowledge].unit)
            if t.knowledge in weights
            else t
            for t in distiller.terms
        )
        return replace(distiller, terms=tuple(terms))

    def random_weights(self, distiller: Distiller, rng: Random) -> Distiller:
        """The same terms under random weights, not all 0."""
        while True:
            drawn = {t.knowledge: rng.choice(self.weights(t.knowledge)) for t in distiller.terms}
            if any(drawn.values()):
                return self.weighed(distiller, drawn)

    def mutate_weights(self, distiller: Distiller, rng: Random) -> Distiller:
        """The same terms with one weight changed, not all 0."""
        while True:
            term = rng.choice(distiller.terms)
            own = term.unit == self.options[term.knowledge].unit
            choices = [w for w in self.weights(term.knowledge) if not own or w != term.weight]
            changed = self.weighed(distiller, {term.knowledge: rng.choice(choices)})
            if changed.active:
                return changed

    def crossover_weights(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """The same terms, each with the weight of one of two parents, not all 0."""
        while True:
            pairs = zip(first.terms, second.terms, strict=True)
            child = replace(first, terms=tuple(rng.choice(pair) for pair in pairs))
            if child.active:
                return child
