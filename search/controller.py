"""Divide and conquer (DetKDS Section 3.2): one stage per knowledge side by side, then weights."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from ..settings import Search
from ..space import WEIGHTS_STAGE, Candidate, Outcome, SearchSpace, Term, WrongUse
from .algorithms import Algorithm, TermEvolution, WeightEvolution


class Controller:
    """The same two calls as an algorithm's, over all stages.

    Its state is a pure function of (space, settings, seed, start, the asks and outcomes in their
    order), so a search is resumed by replaying what the store remembers. Candidates are numbered
    from 0 in the order they are asked for. Stages take turns. ``start``: terms that populations
    start from.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: Search,
        seed: int,
        start: Iterable[Term] = (),
    ) -> None:
        start = tuple(start)
        self._space, self._settings, self._seed = space, settings, seed
        self.stages: dict[str, Algorithm] = {
            knowledge: TermEvolution(
                space,
                knowledge,
                settings,
                self._rng(knowledge),
                tuple(term for term in start if term.knowledge == knowledge),
            )
            for knowledge in space.knowledge
        }
        self._turn = 0
        self._number = 0
        self._asked: dict[int, tuple[str, Candidate]] = {}
        self._best: tuple[Candidate, Outcome] | None = None

    def _rng(self, stage: str) -> random.Random:
        return random.Random(f"{self._seed}/{stage}")

    def ask(self) -> Candidate | None:
        for stage in self._in_turn():
            inner = self.stages[stage].ask()
            if inner is not None:
                candidate = Candidate(self._number, stage, inner.distiller)
                self._asked[self._number] = (stage, inner)
                self._number += 1
                return candidate
        return None

    def _in_turn(self) -> list[str]:
        """The stages, beginning with the one after the last asked: each ask moves the turn on."""
        names = list(self.stages)
        start = self._turn % len(names)
        self._turn += 1
        return names[start:] + names[:start]

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        stage, inner = self._asked.pop(candidate.number)
        self.stages[stage].tell(inner, outcome)
        if outcome.completed and (
            self._best is None or _rank(candidate, outcome) > _rank(*self._best)
        ):
            self._best = (candidate, outcome)
        if WEIGHTS_STAGE not in self.stages and all(s.done for s in self.stages.values()):
            self._combine()

    def _combine(self) -> None:
        """Start the weights stage over the forms found; a single form has its weight already."""
        found = [algorithm.best for algorithm in self.stages.values()]
        forms = tuple(best[0].distiller.terms[0] for best in found if best is not None)
        if len(forms) > 1:
            self.stages[WEIGHTS_STAGE] = WeightEvolution(
                self._space, forms, self._settings, self._rng(WEIGHTS_STAGE)
            )

    @property
    def done(self) -> bool:
        return not self._asked and all(stage.done for stage in self.stages.values())

    @property
    def best(self) -> tuple[Candidate, Outcome] | None:
        """The completed candidate of the highest score over all stages, the earliest of equals."""
        return self._best

    @property
    def planned(self) -> int:
        """Candidates of a search without rejections: what progress is measured against."""
        s = self._settings
        terms = len(self._space.knowledge) * (s.population + 2 * s.iterations)
        return terms + (s.weights if len(self._space.knowledge) > 1 else 0)


def _rank(candidate: Candidate, outcome: Outcome) -> tuple[float, int]:
    assert outcome.score is not None
    return outcome.score, -candidate.number


@dataclass(frozen=True)
class Event:
    """One trial as the store remembers it.

    ``asked_after``: how many outcomes had been told when it was asked for; ``told``: its place in
    the order of telling, None while it is open.
    """

    candidate: Candidate
    asked_after: int
    told: int | None
    outcome: Outcome


def replay(controller: Controller, events: Iterable[Event]) -> list[Candidate]:
    """Bring a fresh controller to where a search stopped; returns the candidates still open.

    Raises :class:`WrongUse` if the controller would not have asked for what was asked for: the
    search's configuration has changed.
    """
    asks = sorted(events, key=lambda event: event.candidate.number)
    told = sorted((e for e in asks if e.told is not None), key=lambda e: e.told or 0)
    known: dict[int, Candidate] = {}
    position = 0
    for step in range(len(told) + 1):
        while position < len(asks) and asks[position].asked_after == step:
            candidate = controller.ask()
            if candidate != asks[position].candidate:
                raise WrongUse(
                    f"--resume: trial {position} of the stored search is not what this "
                    "configuration would try: its space, algorithm or seed has changed; "
                    "restore them or start a search under another --name"
                )
            known[candidate.number] = candidate
            position += 1
        if step < len(told):
            event = told[step]
            controller.tell(known[event.candidate.number], event.outcome)
    return [event.candidate for event in asks if event.told is None]
