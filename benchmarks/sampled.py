"""The distillers of the tabular benchmark: a stratified sample of what a pair can share.

The list is a function of the pair's space and a seed. It begins with the student alone and then has
presets and a stratified sample in turn, so that a collection may stop anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from detkds.configs import distiller_file, distiller_names
from detkds.search.plans.checks import check_distiller
from detkds.search.plans.plan import Plan
from detkds.space import Distiller, SearchSpace, Term, WrongUse
from problems import space_of
from table_rows import key_of

#: Distillers of one term, for each kind of knowledge.
SINGLES = 18
#: Combinations of random terms, and as many of terms that presets and single terms have.
COMBINATIONS = 110
#: What presets' weights are multiplied by, besides 1.
SCALES = (0.25, 4.0)
#: Combinations that beat all presets on the quickstart when they were tried by hand.
BY_HAND = (
    "logits: softmax_c, correlation × 2; cross_logits: identity, quality_focal × 1; "
    "cross_localization: identity, giou × 1",
    "logits: softmax_c, correlation × 5",
    "cross_logits: identity, quality_focal × 2; cross_localization: identity, giou × 2",
)

Item = TypeVar("Item")


def sampled(plan: Plan, seed: int = 0) -> list[Distiller]:
    """The student alone, the presets, and a stratified sample, each distiller once.

    The sample: presets under other weights, single terms of every kind, random combinations, and
    combinations of terms of presets and single terms.
    """
    space, rng = space_of(plan), Random(seed)
    presets = [preset for preset in _presets() if _fits(preset, plan)]
    by_hand = [one for one in map(Distiller.parse, BY_HAND) if _fits(one, plan)]
    scaled = [_scaled(preset, by) for preset in presets for by in SCALES]
    singles = {name: _singles(space, name, rng) for name in space.knowledge}
    random = [_random_combination(space, rng) for _ in range(COMBINATIONS)]
    terms = [single.terms[0] for strata in singles.values() for single in strata]
    made = [_made_combination(presets, terms, rng) for _ in range(COMBINATIONS)]
    drawn = interleaved([scaled, *singles.values(), random, made], rng)
    by_others = [*by_hand, *presets]
    known: dict[str, Distiller] = {}
    for one in [Distiller(()), *_in_turn(by_others, drawn), *drawn[len(by_others) :]]:
        known.setdefault(key_of(one), one)
    return list(known.values())


def interleaved(strata: Iterable[Sequence[Item]], rng: Random) -> list[Item]:
    """All items in an order of which every beginning has the strata in their proportions."""
    placed = []
    for stratum in strata:
        shuffled = rng.sample(list(stratum), len(stratum))
        placed += [((i + rng.random()) / len(shuffled), one) for i, one in enumerate(shuffled)]
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def _in_turn(first: Sequence[Item], second: Sequence[Item]) -> list[Item]:
    """The items of both in turn, to the end of the shorter."""
    return [one for pair in zip(first, second, strict=False) for one in pair]


def _presets() -> list[Distiller]:
    return [Distiller.from_json(distiller_file(name)) for name in distiller_names()]


def _fits(distiller: Distiller, plan: Plan) -> bool:
    """Whether trials and full trainings of the pair can have the distiller."""
    assert plan.config.final is not None
    try:
        for schedule in (plan.config.trial, plan.config.final):
            check_distiller(distiller, plan.signatures, schedule, "distiller")
    except WrongUse:
        return False
    return True


def _scaled(distiller: Distiller, factor: float) -> Distiller:
    return replace(
        distiller, terms=tuple(replace(t, weight=t.weight * factor) for t in distiller.terms)
    )


def _singles(space: SearchSpace, knowledge: str, rng: Random) -> list[Distiller]:
    """Terms in which every choice of every slot comes about equally often (a Latin hypercube)."""
    columns = [_balanced(slot, SINGLES, rng) for slot in space.slots(knowledge)]
    return [
        Distiller((space.decode(knowledge, list(values)),)) for values in zip(*columns, strict=True)
    ]


def _balanced(choices: Sequence[Item], number: int, rng: Random) -> list[Item]:
    rounds = math.ceil(number / len(choices))
    repeated = [one for _ in range(rounds) for one in rng.sample(list(choices), len(choices))]
    return rng.sample(repeated[:number], number)


def _random_combination(space: SearchSpace, rng: Random) -> Distiller:
    kinds = rng.sample(space.knowledge, rng.choice((2, 3, 4)))
    return Distiller(tuple(space.random(name, rng) for name in kinds))


def _made_combination(presets: list[Distiller], singles: list[Term], rng: Random) -> Distiller:
    """A preset of at most three terms, or a preset's term, with others up to two, three or four."""
    small = [preset.terms for preset in presets if len(preset.terms) <= 3]
    parts = [(term,) for preset in presets for term in preset.terms]
    terms = list(rng.choice([rng.choice(small), rng.choice(parts)]))
    size = rng.choice([size for size in (2, 3, 4) if size > len(terms)])
    while len(terms) < size:
        known = {term.knowledge for term in terms}
        source = rng.choice([singles, [term for (term,) in parts]])
        more = rng.choice([term for term in source if term.knowledge not in known])
        terms.append(replace(more, weight=more.weight * rng.choice((0.5, 1.0, 2.0))))
    return Distiller(tuple(terms))
