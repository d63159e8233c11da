"""DetKDS Algorithm 1: the evolution of terms or of whole distillers, and that of the weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ...settings import Search
from ...space import Candidate, Distiller, Outcome
from .base import MAX_DRAWS, Algorithm, Scored, rank
from .population import Population
from .stages import Stage, TermStage, WeightStage, WholeStage


@dataclass(eq=False)
class _Place:
    """A place for one scored candidate. While its candidates are rejected or fail, it draws others.

    ``first``: the distiller to try before any is drawn.
    """

    draw: Callable[[], Distiller]
    first: Distiller | None = None
    draws: int = 0
    waiting: bool = False
    scored: Scored | None = None

    def next(self) -> Distiller:
        self.waiting, self.draws = True, self.draws + 1
        return self.first if self.first is not None and self.draws == 1 else self.draw()

    @property
    def closed(self) -> bool:
        return self.scored is not None or (self.draws >= MAX_DRAWS and not self.waiting)

    @property
    def open(self) -> bool:
        return not self.waiting and not self.closed


@dataclass
class _Places:
    """Places in the order they were made, and the place of each open candidate."""

    stage: str
    places: list[_Place] = field(default_factory=list)
    asked: dict[int, _Place] = field(default_factory=dict)
    number: int = 0

    def make(self, draw: Callable[[], Distiller], first: Distiller | None = None) -> _Place:
        place = _Place(draw, first)
        self.places.append(place)
        return place

    def ask(self) -> Candidate | None:
        """A candidate for the first open place."""
        place = next((place for place in self.places if place.open), None)
        if place is None:
            return None
        candidate = Candidate(self.number, self.stage, place.next())
        self.asked[candidate.number] = place
        self.number += 1
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> _Place:
        place = self.asked.pop(candidate.number)
        place.waiting = False
        if outcome.ranked:
            place.scored = (candidate, outcome)
        if place.closed:
            self.places.remove(place)
        return place


def algorithm1(stage: Stage, settings: Search, rng: random.Random) -> Algorithm:
    """The half of Algorithm 1 that is for this stage."""
    if isinstance(stage, WeightStage):
        return WeightEvolution(stage, settings, rng)
    return TermEvolution(stage, settings, rng)


class TermEvolution:
    """Algorithm 1, lines 2 to 11: evolve the term of one knowledge, or whole distillers.

    P random terms; then T times: a pool of ratio r, a parent from its top k, its mutant; one
    random term; the better of the two joins the population and the worst member leaves. A mutant
    or random term that is rejected is drawn again. While an iteration waits for its scores, the
    next iteration may start from the population as it stands; with one worker the order is the
    paper's. The stage's ``first`` distillers take the places of the first random ones, at most P.

    Without divide and conquer (Table 12), whole distillers take the place of terms. All of the
    stage's ``first`` are in the population then, which is as much larger than P as it must be; if
    the number of candidates is odd, the last iteration has a mutant alone.
    """

    def __init__(self, stage: TermStage | WholeStage, settings: Search, rng: random.Random) -> None:
        self._stage, self._rng = stage, rng
        self.planned = stage.planned(settings)
        whole = isinstance(stage, WholeStage)
        size = max(settings.population, len(stage.first) if whole else 0)
        self._population = Population(settings, size)
        self._places = _Places(stage.name)
        known = stage.first[:size]
        firsts = [*known, *[None] * (size - len(known))][: self.planned]
        self._initial = [self._places.make(self._random, first) for first in firsts]
        #: The places of the mutant and of the random candidate of every unfinished iteration.
        self._iterations: list[list[_Place]] = []
        #: How many more places there will be.
        self._left = self.planned - len(firsts)

    def ask(self) -> Candidate | None:
        candidate = self._places.ask()
        if candidate is None and self._left and self._can_breed:
            draws = [self._mutant, self._random][: self._left]
            self._left -= len(draws)
            self._iterations.append([self._places.make(draw) for draw in draws])
            candidate = self._places.ask()
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        place = self._places.tell(candidate, outcome)
        self._population.see(candidate, outcome)
        if place in self._initial:
            if place.scored:
                self._population.add(*place.scored)
            if place.closed:
                self._initial.remove(place)
            return
        self._settle()

    def _settle(self) -> None:
        """Lines 9 and 10 for every iteration whose places are closed."""
        for places in [one for one in self._iterations if all(place.closed for place in one)]:
            self._iterations.remove(places)
            known = [place.scored for place in places if place.scored is not None]
            if known:
                self._population.add(*max(known, key=rank))
                self._population.drop_worst()

    @property
    def _can_breed(self) -> bool:
        return len(self._population) > 0

    @property
    def done(self) -> bool:
        waiting = self._initial or self._iterations
        return not waiting and (not self._left or not self._can_breed)

    @property
    def best(self) -> Scored | None:
        return self._population.best

    learns = False  # scores below the bar change nothing

    @property
    def bar(self) -> float | None:
        return self._population.bar

    def _random(self) -> Distiller:
        return self._stage.random(self._rng)

    def _mutant(self) -> Distiller:
        return self._stage.mutate(self._population.parent(self._rng), self._rng)


class WeightEvolution:
    """Algorithm 1, lines 13 to 18: evolve the weights of the terms found, 0 dropping a term.

    The first candidate keeps the weight that each term was found with (if it is rejected, a random
    candidate takes its place), P - 1 more are drawn at random, and the rest are children: crossover
    of two parents from the top k, then a mutation. The paper draws all P at random; to start from
    the weights found costs one candidate.
    """

    def __init__(self, stage: WeightStage, settings: Search, rng: random.Random) -> None:
        self._stage, self._settings, self._rng = stage, settings, rng
        self._population = Population(settings, settings.population)
        self._places = _Places(stage.name)
        self._made = min(settings.population, settings.weights)
        for first in [stage.found, *[None] * (self._made - 1)]:
            self._places.make(lambda: stage.random(rng), first)

    def ask(self) -> Candidate | None:
        candidate = self._places.ask()
        if candidate is None and self._made < self._settings.weights and len(self._population):
            self._made += 1
            self._places.make(self._child)
            candidate = self._places.ask()
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._places.tell(candidate, outcome)
        self._population.see(candidate, outcome)
        if outcome.ranked:
            self._population.add(candidate, outcome)
            if len(self._population) > self._settings.population:
                self._population.drop_worst()

    @property
    def done(self) -> bool:
        finished = self._made >= self._settings.weights or not len(self._population)
        return not self._places.places and finished

    @property
    def best(self) -> Scored | None:
        return self._population.best

    learns = False  # scores below the bar change nothing

    @property
    def bar(self) -> float | None:
        return self._population.bar

    @property
    def planned(self) -> int:
        return self._stage.planned(self._settings)

    def _child(self) -> Distiller:
        first, second = (self._population.parent(self._rng) for _ in range(2))
        return self._stage.mutate(self._stage.crossover(first, second, self._rng), self._rng)
