"""A search's stages: divide and conquer (DetKDS Section 3.2), or a stage of whole distillers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from ..settings import PRESETS, Search
from ..space import (
    NONE,
    WEIGHTS_STAGE,
    Candidate,
    Distiller,
    Outcome,
    SearchSpace,
    Term,
    WrongUse,
)
from .algorithms import (
    START_STAGE,
    Algorithm,
    EarlyStop,
    Listed,
    Scored,
    Stage,
    TermStage,
    WeightStage,
    WholeStage,
    make_algorithm,
    rank,
)


class Controller:
    """The ask and tell of an algorithm, over all stages; ``search.algorithm`` runs each stage.

    The controller's state is a pure function of (space, settings, seed, start, the asks and
    outcomes in their order), so a search is resumed by replaying what the store remembers.
    Candidates are numbered from 0 in the order they are asked for.

    ``start``: the distillers that the search starts from. Divided, the first stage scores them as
    they are; then one stage for each kind of knowledge, which take turns and begin with the terms
    of ``start``; then the weights. Undivided, there is one stage, of whole distillers.

    Raises :class:`WrongUse` for an unknown algorithm, an algorithm that can't run a stage, and a
    wrong ``search.trials``.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: Search,
        seed: int,
        start: Iterable[Distiller] = (),
    ) -> None:
        self._space, self._settings, self._seed = space, settings, seed
        self.stages: dict[str, Algorithm] = {}
        self._plan(tuple(start))
        #: Candidates of a search without rejections and failures: what progress is measured by.
        self.planned = sum(algorithm.planned for algorithm in self.stages.values())
        if settings.divide and len(space.knowledge) > 1:
            self.planned += self._planned_weights()
        self._number = 0
        self._asked: dict[int, tuple[str, Candidate]] = {}
        self._best: Scored | None = None
        #: The AP of the student alone, in [0, 1], once it is told.
        self.alone: float | None = None
        self._early = EarlyStop()

    def _plan(self, start: tuple[Distiller, ...]) -> None:
        """Add the stages that the search begins with."""
        settings, space = self._settings, self._space
        if not settings.divide:
            whole = WholeStage(space, start)
            _check_trials(whole, settings)
            self._add(whole)
            return
        if settings.trials is not None:
            raise WrongUse(
                f"{settings.trials}: with stages, search.population, search.iterations and "
                "search.weights say how many candidates there are; set these, or "
                "search.divide=False",
                "search.trials",
            )
        if start:
            self.stages[START_STAGE] = Listed(start)
        for knowledge in space.knowledge:
            self._add(TermStage(space, knowledge, self._known_terms(knowledge, start)))

    def _known_terms(self, knowledge: str, start: tuple[Distiller, ...]) -> tuple[Term, ...]:
        """The start's terms of one knowledge, each once, that a population begins with.

        Where the user named no distiller, they are half of a population at most.
        """
        terms = [term for one in start for term in one.active if term.knowledge == knowledge]
        named = not {*self._settings.start} <= {NONE, PRESETS}
        most = len(terms) if named else self._settings.population // 2
        return tuple(dict.fromkeys(terms))[:most]

    def _add(self, stage: Stage) -> None:
        self.stages[stage.name] = self._algorithm(stage)

    def _algorithm(self, stage: Stage) -> Algorithm:
        return make_algorithm(stage, self._settings, random.Random(f"{self._seed}/{stage.name}"))

    def _planned_weights(self) -> int:
        """What the weights stage plans, whichever terms are found: random terms stand in here."""
        rng = random.Random(self._seed)
        terms = tuple(self._space.random(knowledge, rng) for knowledge in self._space.knowledge)
        return self._algorithm(WeightStage(self._space, Distiller(terms))).planned

    def ask(self) -> Candidate | None:
        """The next candidate of the stage whose turn it is; None: wait, or look at ``done``.

        The start has the first turns.
        """
        for stage in self._in_turn():
            inner = self.stages[stage].ask()
            if inner is not None:
                bar = self._early_bar(self.stages[stage], inner.distiller)
                candidate = Candidate(self._number, stage, inner.distiller, bar)
                self._asked[self._number] = (stage, inner)
                self._number += 1
                return candidate
        return None

    def _early_bar(self, stage: Algorithm, distiller: Distiller) -> float | None:
        """The student alone, which all are compared with, is trained to the end."""
        if not self._settings.early_stop:
            return None
        return self._early.bar(stage) if distiller.active else 0.0

    def _in_turn(self) -> list[str]:
        """The stages, beginning with the stage whose turn it is; each candidate passes the turn on.

        An ask that finds nothing does not: a replay knows nothing of such asks.
        """
        first = [name for name in self.stages if name == START_STAGE]
        names = [name for name in self.stages if name != START_STAGE]
        start = self._number % len(names)
        return first + names[start:] + names[:start]

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """The outcome of a candidate. Raises KeyError if the candidate is not an open ask."""
        stage, inner = self._asked.pop(candidate.number)
        self.stages[stage].tell(inner, self._early.told(outcome))
        scored = (candidate, outcome)
        leads = self._best is None or rank(scored) > rank(self._best)
        completed = outcome.checked().completed
        if completed and leads:
            self._best = scored
        if completed and not candidate.distiller.active:
            self.alone = outcome.score
        divided = self._settings.divide and WEIGHTS_STAGE not in self.stages
        if divided and all(stage.done for stage in self.stages.values()):
            self._combine()

    def _combine(self) -> None:
        """Start the weights stage over the terms found; a single term has its weight already."""
        found = [self.stages[knowledge].best for knowledge in self._space.knowledge]
        terms = tuple(best[0].distiller.terms[0] for best in found if best is not None)
        if len(terms) > 1:
            self._add(WeightStage(self._space, Distiller(terms)))

    @property
    def done(self) -> bool:
        return not self._asked and all(stage.done for stage in self.stages.values())

    @property
    def best(self) -> Scored | None:
        """The completed candidate of the highest score over all stages, the earliest of equals."""
        return self._best


def _check_trials(stage: WholeStage, settings: Search) -> None:
    """Raise :class:`WrongUse` if the stage is too short for the distillers it starts from."""
    planned, first = stage.planned(settings), len(stage.first)
    if planned < first:
        raise WrongUse(
            f"{planned} candidates are fewer than the {first} distillers that the search starts "
            f"from; give at least {first}, or name fewer in search.start",
            "search.trials",
        )


@dataclass(frozen=True)
class Event:
    """One trial as the store remembers it.

    ``asked_after``: how many outcomes had been told when the candidate was asked for;
    ``tell_order``: the outcome's place in the order of telling, from 0, or None while the candidate
    is open.
    """

    candidate: Candidate
    asked_after: int
    tell_order: int | None
    outcome: Outcome


def replay(controller: Controller, events: Iterable[Event]) -> list[Candidate]:
    """Bring a fresh controller to where a search stopped; returns the candidates still open.

    Raises :class:`WrongUse` if the controller would have asked for another candidate than the
    stored one: the search's configuration has changed.
    """
    asks = sorted(events, key=lambda event: event.candidate.number)
    tells = sorted((e for e in asks if e.tell_order is not None), key=lambda e: e.tell_order or 0)
    known: dict[int, Candidate] = {}
    position = 0
    for step in range(len(tells) + 1):
        while position < len(asks) and asks[position].asked_after == step:
            candidate = controller.ask()
            if candidate != asks[position].candidate:
                raise WrongUse(
                    f"trial {position} of the stored search is not what this configuration would "
                    "try: its space, algorithm, seed or the version of detkds has changed; restore "
                    "it or start a search under another name",
                    "resume",
                )
            known[candidate.number] = candidate
            position += 1
        if step < len(tells):
            event = tells[step]
            controller.tell(known[event.candidate.number], event.outcome)
    return [known[event.candidate.number] for event in asks if event.tell_order is None]
