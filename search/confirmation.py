"""Confirmation: the best trials are trained again under fresh seeds, before one is exported.

The winner of many trials is the luckiest of many: its score is too high. Successive halving
(Jamieson and Talwalkar, 2016) trains a few contenders again, drops the worse half after every
round, and spends the remaining trainings on the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..db import SearchRow, Store, TrialRow, ranked
from ..settings import Confirm
from ..workers.training import Training
from .exported import trained_distiller
from .paired import probability_better
from .plans import keys
from .plans.full import taught
from .plans.models import trained
from .plans.plan import Plan
from .plans.trainings import Display, train_all


@dataclass(frozen=True)
class Contender:
    """A trial whose distiller is trained again, and the APs under fresh seeds, in [0, 1].

    ``name``: of a distiller that the search started from; None: the search found the distiller.
    The scores of all contenders are in the order of one list of seeds.
    """

    trial: TrialRow
    name: str | None
    scores: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        return self.name or f"trial {self.trial.number}"

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if self.scores else -math.inf

    @property
    def preset(self) -> bool:
        """Whether a hand-made distiller contends; the student alone is none."""
        return self.name is not None and bool(self.trial.distiller.active)


@dataclass(frozen=True)
class Confirmation:
    """Contenders after all rounds, the winner first; those of earlier rounds have fewer scores."""

    contenders: tuple[Contender, ...]

    @property
    def winner(self) -> Contender:
        return self.contenders[0]

    @property
    def preset(self) -> Contender | None:
        """The best hand-made distiller, or None if the search started from none."""
        return next((one for one in self.contenders if one.preset), None)

    @property
    def rival(self) -> Contender | None:
        """The best preset beside another winner; beside a preset that won, the best found one."""
        if self.winner.preset:
            return next((one for one in self.contenders if one.name is None), None)
        return self.preset

    @property
    def leads(self) -> tuple[float, float] | None:
        """How far the winner leads its rival: in the trials, and as a mean over fresh seeds."""
        if self.rival is None:
            return None
        first = (self.winner.trial.score or 0.0) - (self.rival.trial.score or 0.0)
        return first, float(np.mean(self._differences))

    @property
    def probability(self) -> float | None:
        """The probability that the winner is better than its rival, paired over seeds.

        None: no rival, or one seed in common.
        """
        return None if self.rival is None else probability_better(self._differences)

    def record(self) -> dict[str, Any]:
        """What the store keeps and a distiller file shows; ``trial`` is the winner's number."""
        rival = self.rival
        return {
            "trial": self.winner.trial.number,
            "title": self.winner.title,
            "rival": rival and rival.title,
            "leads": self.leads and {"trial": self.leads[0], "confirmed": self.leads[1]},
            "probability": self.probability,
            "contenders": [
                {"title": one.title, "trial_ap": one.trial.score, "aps": list(one.scores)}
                for one in self.contenders
            ],
        }

    @property
    def _differences(self) -> list[float]:
        """Winner minus rival under each seed that both were trained with."""
        assert self.rival is not None
        return [a - b for a, b in zip(self.winner.scores, self.rival.scores, strict=False)]


def best_preset(trials: Sequence[TrialRow], start: Mapping[str, str]) -> TrialRow | None:
    """The hand-made distiller of the highest score among those that the search started from."""
    return next((one.trial for one in _ranked(trials, start) if one.preset), None)


def contenders(
    trials: Sequence[TrialRow], start: Mapping[str, str], settings: Confirm
) -> list[Contender]:
    """The best completed trials, besides the best preset and the student alone, best first.

    ``start``: the names of the distillers that the search started from, by key. A distiller that
    was tried twice contends once.
    """
    ranked = _ranked(trials, start)
    preset = next((one for one in ranked if one.preset), None)
    alone = [one for one in ranked if not one.trial.distiller.active]
    top = ranked[: settings.candidates]
    return [one for one in ranked if one in top or one is preset or one in alone]


def _ranked(trials: Sequence[TrialRow], start: Mapping[str, str]) -> list[Contender]:
    """Every distiller that completed, the best first, with its best trial."""
    scored: dict[str, TrialRow] = {}
    for trial in ranked(trials):
        scored.setdefault(trial.key, trial)
    return [Contender(trial, start.get(key)) for key, trial in scored.items()]


def better_half(field: Sequence[Contender]) -> list[Contender]:
    """Who is trained in the next round: the better half by mean, and the best preset."""
    ranked = sorted(field, key=lambda one: -one.mean)
    half = ranked[: math.ceil(len(ranked) / 2)]
    preset = next((one for one in ranked if one.preset), None)
    return [one for one in ranked if one in half or one is preset]


def confirm(
    plan: Plan, store: Store, display: Display, search: SearchRow, start: Mapping[str, str]
) -> Confirmation | None:
    """Train the contenders in rounds, and record the winner in the store.

    None: the config has no ``confirm``, or no trial completed. Trainings that are done already are
    not done again, so a killed search goes on where it was.
    """
    settings = plan.config.confirm
    field = contenders(store.trials(search.id), start, settings) if settings else []
    if settings is None or not field:
        return None
    out: list[Contender] = []
    for turn in range(settings.rounds):
        first = plan.seed + 1 + turn * settings.seeds
        field = _trained(plan, store, display, search, field, range(first, first + settings.seeds))
        if turn + 1 < settings.rounds:
            left = better_half(field)
            out = [one for one in field if one not in left] + out
            field = left
    ranked = sorted(field, key=lambda one: -one.mean)
    out.sort(key=lambda one: (-len(one.scores), -one.mean))
    confirmation = Confirmation((*ranked, *out))
    store.confirm_search(search.id, confirmation.record())
    return confirmation


def _trained(
    plan: Plan,
    store: Store,
    display: Display,
    search: SearchRow,
    field: Sequence[Contender],
    seeds: Sequence[int],
) -> list[Contender]:
    """The contenders with their scores under more seeds."""
    trainings = [_training(plan, one, seed) for one in field for seed in seeds]
    outcomes = iter(train_all(trainings, plan, display, store, search))
    return [
        replace(one, scores=(*one.scores, *(next(outcomes).score or 0.0 for _ in seeds)))
        for one in field
    ]


def _training(plan: Plan, contender: Contender, seed: int) -> Training:
    """A trial under another seed and schedule, as a full training on the proxy."""
    distiller, schedule = trained_distiller(contender.trial), plan.config.confirm_schedule
    assert schedule is not None
    model = plan.task.student if plan.warmup is None else trained(plan.task.student, plan.warmup)
    key = keys.fingerprint([plan.trial_conditions, distiller.key, schedule.model_dump(), seed])
    title = contender.title.replace(" ", "-")
    training = plan.training(
        **taught(plan, distiller),
        name=contender.title,
        model=model,
        schedule=schedule,
        seed=seed,
        folder=str(plan.folder / "confirmed" / f"{title}-seed{seed}-{key[:8]}"),
    )
    on_proxy = {"train": plan.proxy[0], "test": plan.proxy[1], "val": None, "full": False}
    return training.model_copy(update=on_proxy)
