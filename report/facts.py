"""What a report is made of: a search's rows in the store, and the names of what it started from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..db import CostRow, SearchRow, Store, TrainingRow, TrialRow, ranked
from ..db.known_costs import costs_between
from ..db.rows import teacher_ap
from ..db.runners import runner_of
from ..search.exported import best_trial, started_from, trained_distiller
from ..search.record import read_detections
from ..space import NONE, WEIGHTS_STAGE, Distiller, Status

#: The student's name in the table of adaptation costs.
STUDENT = "student"
ALONE = "student alone"


@dataclass(frozen=True)
class Facts:
    """A search as the store holds it.

    ``best``: the trial whose distiller is exported, None before a trial has completed.
    ``place``: the options of the command line that lead to this store. ``names``: those of the
    distillers that the search started from, by key. ``runner``: who runs the search now, or None.
    """

    search: SearchRow
    trials: Sequence[TrialRow]
    trainings: Sequence[TrainingRow]
    costs: Sequence[CostRow]
    best: TrialRow | None
    place: str
    runner: str | None = None
    #: What the search's detectors find (:func:`~detkds.workers.looking.look`), or None.
    detections: dict[str, Any] | None = None

    @classmethod
    def read(cls, store: Store, name: str, place: str = "", folder: Path | None = None) -> Facts:
        """Read a search; ``folder``: its work folder, for what lies there.

        Raises :class:`WrongUse` for a name that the store does not hold.
        """
        search = store.search(name)
        models = [STUDENT, *(search.config.get("teachers") or {})]
        return cls(
            search=search,
            trials=store.trials(search.id),
            trainings=store.trainings(search.id),
            costs=costs_between(store, models),
            best=best_trial(store, search),
            place=place,
            runner=runner_of(store, name),
            detections=None if folder is None else read_detections(folder, name),
        )

    @cached_property
    def names(self) -> dict[str, str]:
        start = (self.search.config.get("search") or {}).get("start") or []
        distillers = [Distiller.from_dict(one) for one in start if isinstance(one, dict)]
        return started_from(distillers)

    @cached_property
    def scored(self) -> list[TrialRow]:
        """The completed trials, the best first."""
        return ranked(self.trials)

    @cached_property
    def stages(self) -> dict[str, list[TrialRow]]:
        """The trials by stage, in the order of asking; the weights come last."""
        stages: dict[str, list[TrialRow]] = {}
        for trial in self.trials:
            stages.setdefault(trial.stage, []).append(trial)
        last = stages.pop(WEIGHTS_STAGE, None)
        return stages if last is None else {**stages, WEIGHTS_STAGE: last}

    @property
    def counts(self) -> dict[Status, int]:
        return {status: sum(t.status is status for t in self.trials) for status in Status}

    def title(self, trial: TrialRow) -> str:
        """What a reader knows a trial's distiller by."""
        if not trial.distiller.active:
            return ALONE
        return self.names.get(trial.key, f"trial {trial.number}")

    @property
    def alone(self) -> TrialRow | None:
        """The best trial of the student alone."""
        return next((trial for trial in self.scored if not trial.distiller.active), None)

    @property
    def teacher(self) -> float | None:
        """The teacher's AP on the images that score trials, in [0, 1], if it is known."""
        return teacher_ap(self.trainings)

    @property
    def preset(self) -> TrialRow | None:
        """The best trial of a distiller that the search started from."""
        handmade = (t for t in self.scored if t.key in self.names and t.distiller.active)
        return next(handmade, None)

    @property
    def found(self) -> TrialRow | None:
        """The best trial of a distiller that the search found."""
        return next((t for t in self.scored if t.key not in self.names), None)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the config; empty where the search has none."""
        return self.search.config.get(name) or {}


def as_trained(trial: TrialRow) -> str:
    """The terms that a completed trial trained with, in arrow notation."""
    return str(trained_distiller(trial)) if trial.score is not None else trial.notation


def points(score: float | None, signed: bool = False) -> str:
    """An AP in [0, 1] as points; "–" for None."""
    if score is None:
        return "–"
    return f"{100 * score:+.1f}" if signed else f"{100 * score:.1f}"


def named(title: str) -> str:
    """A distiller's name in the store, for a reader."""
    return ALONE if title == NONE else title
