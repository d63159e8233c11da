"""The search space: random terms and distillers, mutation, crossover and size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from .distiller import Distiller, Term
from .errors import WrongUse, nearest
from .options import PRESETS, SHARE, SHARES, KnowledgeOptions

#: In the ``weights`` stage 0, which drops a term, is a choice beside Table 2's weights.
DROP = 0.0
#: The share of random distillers, of those with n terms or more, that have more than n.
MORE_TERMS = 0.5
#: The share of crossovers that have the terms of both parents.
UNION = 2 / 3


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
        return hash(float(self))


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
        return [*term.applied, term.distance, *schedule, self.weight(term)]

    def weight(self, term: Term) -> float:
        """The weight as a term's encoding has it."""
        own = term.unit == self.options[term.knowledge].unit
        return term.weight if own else WeightIn(term.weight, term.unit)

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
        return self._with_another_choice(term, self.slots(term.knowledge), rng)

    def crossover(self, first: Term, second: Term, rng: Random) -> Term:
        """A term whose every slot comes from one of two parents of the same knowledge."""
        pairs = zip(self.encode(first), self.encode(second), strict=True)
        return self.decode(first.knowledge, [rng.choice(pair) for pair in pairs])

    def weights(self, knowledge: str) -> tuple[float, ...]:
        """The choices of the ``weights`` stage for one term."""
        return (DROP, *self.options[knowledge].weights)

    def weighed(self, distiller: Distiller, weights: Mapping[str, float]) -> Distiller:
        """The same terms under other weights, given by knowledge."""
        terms = (
            self._weighed(t, weights[t.knowledge]) if t.knowledge in weights else t
            for t in distiller.terms
        )
        return replace(distiller, terms=tuple(terms))

    def _weighed(self, term: Term, weight: float) -> Term:
        own = self.options[term.knowledge].unit
        unit = weight.unit if isinstance(weight, WeightIn) else own
        return replace(term, weight=float(weight), unit=unit)

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
            now = self.weight(term)
            choices = [w for w in self.weights(term.knowledge) if w != now]
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

    def random_distiller(self, rng: Random) -> Distiller:
        """Random terms of random kinds of knowledge, and n + 1 terms half as often as n."""
        count = 1
        while count < len(self.knowledge) and rng.random() < MORE_TERMS:
            count += 1
        kinds = rng.sample(self.knowledge, count)
        return Distiller(tuple(self.random(knowledge, rng) for knowledge in kinds))

    def mutate_distiller(
        self, distiller: Distiller, rng: Random, known: Sequence[Term] = ()
    ) -> Distiller:
        """The distiller with one change: a weight by a step, an option, a term more or less.

        The change is drawn uniformly over the kinds of change that are possible. A term more is
        random, or, as often, one of the ``known`` terms. The last term is not dropped.
        """
        terms = {term.knowledge: term for term in distiller.active}
        optional = [term for term in terms.values() if self.options[term.knowledge].optional]
        missing = [knowledge for knowledge in self.knowledge if knowledge not in terms]
        changes = [
            *(["weight"] if terms else []),
            *(["option"] if optional else []),
            *(["more"] if missing else []),
            *(["less"] if len(terms) > 1 else []),
        ]
        match rng.choice(changes):
            case "weight":
                term = self.step_weight(rng.choice(list(terms.values())), rng)
            case "option":
                term = self._change_option(rng.choice(optional), rng)
            case "more":
                term = self._another(missing, rng, known)
            case _:
                term = replace(rng.choice(list(terms.values())), weight=DROP)
        return Distiller(tuple(t for t in {**terms, term.knowledge: term}.values() if t.weight))

    def _change_option(self, term: Term, rng: Random) -> Term:
        *slots, _ = self.slots(term.knowledge)
        return self._with_another_choice(term, slots, rng)

    def _with_another_choice(
        self, term: Term, slots: Sequence[tuple[str | float, ...]], rng: Random
    ) -> Term:
        """The term with another choice in one of its first slots, both drawn at random."""
        values = self.encode(term)
        index = rng.choice([i for i, slot in enumerate(slots) if len(slot) > 1])
        values[index] = rng.choice([choice for choice in slots[index] if choice != values[index]])
        return self.decode(term.knowledge, values)

    def step_weight(self, term: Term, rng: Random) -> Term:
        """The term with the next larger or the next smaller weight of the space.

        From a weight in another unit, every weight of the space is a step away.
        """
        weights = self.options[term.knowledge].weights
        if isinstance(self.weight(term), WeightIn):
            return self._weighed(term, rng.choice(weights))
        larger = [weight for weight in weights if weight > term.weight]
        smaller = [weight for weight in weights if weight < term.weight]
        steps = [*([min(larger)] if larger else []), *([max(smaller)] if smaller else [])]
        return replace(term, weight=rng.choice(steps)) if steps else term

    def _another(self, missing: list[str], rng: Random, known: Sequence[Term]) -> Term:
        """A term of one of the ``missing`` kinds of knowledge."""
        others = [term for term in known if term.knowledge in missing]
        if others and rng.random() < 0.5:
            return rng.choice(others)
        return self.random(rng.choice(missing), rng)

    def crossover_distillers(self, first: Distiller, second: Distiller, rng: Random) -> Distiller:
        """For every kind of knowledge, the term of one of two parents.

        A term that only one parent has is in the child in two of three crossovers, which are
        unions; in the others, by chance. Without any term left, the child is the union.
        """
        ours = {term.knowledge: term for term in first.active}
        theirs = {term.knowledge: term for term in second.active}
        kinds = [knowledge for knowledge in self.knowledge if knowledge in {**ours, **theirs}]
        terms = {
            knowledge: rng.choice([one[knowledge] for one in (ours, theirs) if knowledge in one])
            for knowledge in kinds
        }
        kept = terms
        if rng.random() >= UNION:
            both = ours.keys() & theirs.keys()
            kept = {k: term for k, term in terms.items() if k in both or rng.random() < 0.5}
        return Distiller(tuple((kept or terms).values()))
