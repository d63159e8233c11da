"""What the store hands out: frozen rows without a connection, and flat records of trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypeVar

from ..space import Candidate, Distiller, Outcome, Status

#: The states of a trial or training that has an outcome.
FINISHED = (Status.COMPLETED, Status.STOPPED, Status.REJECTED, Status.FAILED)
#: The states of a trial whose student was trained and scored, halfway at least.
SCORED = (Status.COMPLETED, Status.STOPPED)


@dataclass(frozen=True)
class SearchRow:
    """One search. ``finished`` is None until the search ends; times are UTC.

    ``confirmation``: which trial is exported and why, or None as long as no trial is confirmed.
    ``holder``: user@host of who started it; None in rows of earlier versions.
    """

    id: int
    name: str
    config: dict[str, Any]
    conditions: str
    seed: int
    version: str
    created: datetime
    finished: datetime | None
    host: str
    confirmation: dict[str, Any] | None
    holder: str | None


@dataclass(frozen=True)
class RunRow:
    """The fields that trials and trainings share. Times are UTC; ``seconds`` is working time.

    ``holder``: user@host of the driver that wrote the row last; None in rows of earlier
    versions.
    """

    id: int
    status: Status
    score: float | None
    metrics: dict[str, float]
    reason: str | None
    error: str | None
    seed: int
    host: str | None
    device: str | None
    started: datetime | None
    finished: datetime | None
    seconds: float | None
    holder: str | None
    conditions: str

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None while the run is queued or running."""
        if self.status not in FINISHED:
            return None
        return Outcome(
            status=self.status,
            score=self.score,
            metrics=self.metrics,
            reason=self.reason,
            error=self.error,
            seconds=self.seconds,
            host=self.host,
            device=self.device,
        )

    @property
    def why(self) -> str:
        """The reason of a run that did not complete, or its error's last line, or ""."""
        return self.reason or (self.error or "").strip().rpartition("\n")[2]


@dataclass(frozen=True)
class TrialRow(RunRow):
    """One trial.

    ``early_score`` is the AP halfway through the training, on a part of the images, or None.
    ``asked_after`` is the number of outcomes that had been told when the trial was asked for;
    ``tell_order`` is the place of its own outcome in the order in which outcomes were told, from 0,
    and None until then. ``reused_from`` is the id of the trial whose outcome this trial copied.
    """

    search_id: int
    number: int
    asked_after: int
    tell_order: int | None
    stage: str
    distiller: Distiller
    notation: str
    key: str
    queued: datetime
    early_score: float | None
    reused_from: int | None

    @property
    def outcome(self) -> Outcome | None:
        known = super().outcome
        return None if known is None else replace(known, early_score=self.early_score)

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.number, self.stage, self.distiller)


def ranked(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """The trials that have a score, the best first; of equal scores the first asked for."""
    scored = [trial for trial in trials if trial.score is not None]
    return sorted(scored, key=lambda trial: (-(trial.score or 0.0), trial.number))


@dataclass(frozen=True)
class TrainingRow(RunRow):
    """One full training. ``distiller`` is None if the student trained alone."""

    search_id: int | None
    name: str
    distiller: Distiller | None
    split: str
    checkpoint: str | None

    @property
    def label(self) -> str:
        """What a search's training is called by."""
        return f"{self.name}-seed{self.seed}"


#: The name of the row that holds the AP of a search's teacher on the images that score trials. The
#: row has no checkpoint: nothing was trained for it.
TEACHER_SCORED = "teacher-scored"


def teacher_ap(trainings: Iterable[TrainingRow]) -> float | None:
    """The AP of a search's teacher on the images that score trials, in [0, 1], if it is known."""
    known = [row.score for row in trainings if row.name == TEACHER_SCORED and row.score is not None]
    return known[-1] if known else None


@dataclass(frozen=True)
class CostRow:
    """The cost of adapting the features of the model ``source`` to those of the model ``target``.

    ``cost`` is the loss on held-out images and ``fit`` the loss on the fitted images; ``levels``
    gives [fit, held out] by stride. Models of equal keys are the same model, whatever their names.
    """

    data: str
    source: str
    source_key: str
    target: str
    target_key: str
    cost: float
    fit: float
    levels: dict[str, Any]
    images: int
    created: datetime


Row = TypeVar("Row", SearchRow, TrialRow, TrainingRow, CostRow)


def to_row(row_type: type[Row], model: Any) -> Row:
    """The row that copies the fields of the same names from a model."""
    return row_type(**{field.name: getattr(model, field.name) for field in fields(row_type)})


#: The fields of a trial in a flat record, in their order.
_RECORD_FIELDS = (
    "number",
    "stage",
    "status",
    "notation",
    "key",
    "score",
    "early_score",
    "reason",
    "error",
    "seed",
    "host",
    "device",
    "queued",
    "started",
    "finished",
    "seconds",
    "reused_from",
    "holder",
)
#: The fields of a training in a flat record, in their order.
_TRAINING_FIELDS = (
    *("label", "split", "status", "score", "reason", "error", "seed", "host", "device"),
    *("started", "finished", "seconds", "checkpoint", "holder"),
)


def flatten(named_rows: Iterable[tuple[str, TrialRow | TrainingRow]]) -> list[dict[str, Any]]:
    """One flat dict per (name of the search, row), for CSV files and data frames.

    All dicts have the same keys in the same order. The metrics come last, as ``metrics.NAME``; the
    value is None if the row has no such metric.
    """
    named_rows = list(named_rows)
    metrics = dict.fromkeys(name for _, row in named_rows for name in row.metrics)
    return [
        {
            "search": search,
            **{field: getattr(row, field) for field in _fields_of(row)},
            "status": row.status.value,
            **{f"metrics.{name}": row.metrics.get(name) for name in metrics},
        }
        for search, row in named_rows
    ]


def _fields_of(row: TrialRow | TrainingRow) -> tuple[str, ...]:
    return _RECORD_FIELDS if isinstance(row, TrialRow) else _TRAINING_FIELDS
