"""The evolutions of DetKDS Algorithm 1: of one knowledge's form, and of the weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ...settings import Search
from ...space import WEIGHTS_STAGE, Candidate, Distiller, Outcome, SearchSpace, Term
from .population import Population

#: A slot whose candidates keep being rejected or failing is left empty after this many.
MAX_DRAWS = 20


@dataclass
class _Slot:
    """A place for one scored candidate; drawn again while what it gets is rejected or fails.

    ``first``, where given, is tried before anything is drawn.
    """

    draw: Callable[[], Distiller]
    first: Distiller | None = None
    draws: int = 0
    waiting: bool = False
    scored: tuple[Candidate, Outcome] | None = None

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
class _Slots:
    """Slots in the order they were made, and which candidate sits in which."""

    stage: str
    slots: list[_Slot] = field(default_factory=list)
    asked: dict[int, _Slot] = field(default_factory=dict)
    number: int = 0

    def make(self, draw: Callable[[], Distiller], first: Distiller | None = None) -> _Slot:
        slot = _Slot(draw, first)
        self.slots.append(slot)
        return slot

    def ask(self) -> Candidate | None:
        """Fill the first open slot."""
        slot = next((slot for slot in self.slots if slot.open), None)
        if slot is None:
            return None
        candidate = Candidate(self.number, self.stage, slot.next())
        self.asked[candidate.number] = slot
        self.number += 1
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> _Slot:
        slot = self.asked.pop(candidate.number)
        slot.waiting = False
        if outcome.completed:
            slot.scored = (candidate, outcome)
        if slot.closed:
            self.slots.remove(slot)
        return slot


class TermEvolution:
    """Algorithm 1, lines 2 to 11: evolve the form of one knowledge's term.

    P random terms; then T times: a pool of ratio r, a parent from its top k, its mutant; one
    random term; the better of the two joins the population and the worst member leaves. A mutant
    or random term that is rejected is drawn again. While an iteration waits for its scores the
    next may start from the population as it stands; with one worker the order is the paper's.
    Terms of ``start`` take the places of the first random ones, as many as there are places.
    """

    def __init__(
        self,
        space: SearchSpace,
        knowledge: str,
        settings: Search,
        rng: random.Random,
        start: tuple[Term, ...] = (),
    ) -> None:
        self._space, self._knowledge, self._settings, self._rng = space, knowledge, settings, rng
        self._population = Population()
        self._slots = _Slots(knowledge)
        known = [Distiller((term,)) for term in start][: settings.population]
        places = [*known, *[None] * (settings.population - len(known))]
        self._initial = [self._slots.make(self._random, first) for first in places]
        self._duels: list[tuple[_Slot, _Slot]] = []
        self._started = 0

    def ask(self) -> Candidate | None:
        candidate = self._slots.ask()
        if candidate is None and self._started < self._settings.iterations and self._can_breed:
            self._started += 1
            self._duels.append((self._slots.make(self._mutant), self._slots.make(self._random)))
            candidate = self._slots.ask()
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        slot = self._slots.tell(candidate, outcome)
        if outcome.completed:
            self._population.see(candidate, outcome)
        if slot in self._initial:
            if slot.scored:
                self._population.add(*slot.scored)
            if slot.closed:
                self._initial.remove(slot)
            return
        self._settle()

    def _settle(self) -> None:
        """Lines 9 and 10 for every iteration whose two candidates are known."""
        for duel in [duel for duel in self._duels if all(slot.closed for slot in duel)]:
            self._duels.remove(duel)
            scored = [slot.scored for slot in duel if slot.scored is not None]
            if scored:
                self._population.add(*max(scored, key=lambda one: one[1].score or 0.0))
                self._population.drop_worst()

    @property
    def _can_breed(self) -> bool:
        return len(self._population) > 0

    @property
    def done(self) -> bool:
        waiting = self._initial or self._duels
        finished = self._started >= self._settings.iterations or not self._can_breed
        return not waiting and finished

    @property
    def best(self) -> tuple[Candidate, Outcome] | None:
        return self._population.best

    def _random(self) -> Distiller:
        return Distiller((self._space.random(self._knowledge, self._rng),))

    def _mutant(self) -> Distiller:
        settings = self._settings
        parent = self._population.parent(settings.sample_ratio, settings.top_k, self._rng)
        return Distiller((self._space.mutate(parent.terms[0], self._rng),))


class WeightEvolution:
    """Algorithm 1, lines 13 to 18: evolve the weights of the forms found, 0 dropping a term.

    The first candidate keeps the weights each term was found with (rejected, it makes room for a
    random one), P - 1 more are drawn at random, and the rest are children: crossover of two parents
    from the top k, then a mutation. The paper draws the whole first population; its best known
    member costs one candidate.
    """

    def __init__(
        self,
        space: SearchSpace,
        forms: tuple[Term, ...],
        settings: Search,
        rng: random.Random,
    ) -> None:
        self._space, self._settings, self._rng = space, settings, rng
        self._found = Distiller(forms)
        self._population = Population()
        self._slots = _Slots(WEIGHTS_STAGE)
        first = min(settings.population, settings.weights)
        for start in [self._found, *[None] * (first - 1)]:
            self._slots.make(lambda: space.random_weights(self._found, rng), start)
        self._made = first

    def ask(self) -> Candidate | None:
        candidate = self._slots.ask()
        if candidate is None and self._made < self._settings.weights and len(self._population):
            self._made += 1
            self._slots.make(self._child)
            candidate = self._slots.ask()
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._slots.tell(candidate, outcome)
        if outcome.completed:
            self._population.see(candidate, outcome)
            self._population.add(candidate, outcome)
            if len(self._population) > self._settings.population:
                self._population.drop_worst()

    @property
    def done(self) -> bool:
        finished = self._made >= self._settings.weights or not len(self._population)
        return not self._slots.slots and finished

    @property
    def best(self) -> tuple[Candidate, Outcome] | None:
        return self._population.best

    def _child(self) -> Distiller:
        settings, rng = self._settings, self._rng
        first, second = (
            self._population.parent(settings.sample_ratio, settings.top_k, rng) for _ in range(2)
        )
        child = self._space.crossover_weights(first, second, rng)
        return self._space.mutate_weights(child, rng)
