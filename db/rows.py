"""What the store hands out: plain, frozen rows that know nothing of the database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from ..space import Candidate, Distiller, Outcome, Status

FINISHED = (Status.COMPLETED, Status.REJECTED, Status.FAILED)


@dataclass(frozen=True)
class SearchRow:
    """One search. ``finished`` is None while it goes on; times are UTC."""

    id: int
    name: str
    config: dict[str, Any]
    conditions: str
    seed: int
    version: str
    created: datetime
    finished: datetime | None
    host: str


@dataclass(frozen=True)
class RunRow:
    """What trials and trainings record alike. Times are UTC, ``seconds`` is the working time."""

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
    conditions: str

    @property
    def outcome(self) -> Outcome | None:
        """What came out; None before that."""
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


@dataclass(frozen=True)
class TrialRow(RunRow):
    """One trial; ``reused_from`` is the id of the trial whose outcome it took over."""

    search_id: int
    number: int
    asked_after: int
    told: int | None
    stage: str
    distiller: Distiller
    notation: str
    key: str
    queued: datetime
    reused_from: int | None

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.number, self.stage, self.distiller)


@dataclass(frozen=True)
class TrainingRow(RunRow):
    """One full training; without a distiller, the student trained alone."""

    search_id: int | None
    name: str
    distiller: Distiller | None
    split: str
    checkpoint: str | None


@dataclass(frozen=True)
class CostRow:
    """What it costs to adapt the features of one model to another's, on some images.

    ``cost`` is the loss on held-out images, ``fit`` on the others; ``levels`` gives [fit, held out]
    by stride. Equal ``source_key`` or ``target_key``: the same model, whatever it is called.
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
    """A row from the model of the same fields."""
    return row_type(**{field.name: getattr(model, field.name) for field in fields(row_type)})


def to_rows(row_type: type[Row], models: Iterable[Any]) -> list[Row]:
    return [to_row(row_type, model) for model in models]
