"""Candidates and their outcomes, which search, workers and database exchange."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from enum import Enum

from .distiller import Distiller

WEIGHTS_STAGE = "weights"
#: The name of a metric that is the plain weight of a share, before the term's knowledge.
PLAIN_WEIGHT = "weight/"


class Status(str, Enum):
    """The states of a trial."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True)
class Candidate:
    """A distiller that the search wants scored. ``number`` counts the asks of a search from 0.

    ``early_bar``: the early score that the student must have halfway through its training; below
    it, the trial is stopped. None: the student is not scored halfway.
    """

    number: int
    stage: str
    distiller: Distiller
    early_bar: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Progress:
    """How far the training of a trial is.

    ``loss``: that of the last iteration. ``seconds_left``: of the training, without the scoring
    after it; None after the first iteration, whose time says little.
    """

    iteration: int
    iterations: int
    loss: float | None = None
    seconds_left: float | None = None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.3g}"
        return f"iteration {self.iteration}/{self.iterations}{loss}"


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate.

    ``score`` is the box AP on the proxy's validation images, in [0, 1], and is None unless the
    trial completed; ``early_score`` is the AP halfway through the training on a part of these
    images, if it was measured. ``reason`` says why a trial was stopped or rejected, or what a
    training could not go on from; ``error`` says why a run failed. ``metrics`` holds all COCO
    metrics by their names, ``filter/…`` what the filter measured, and ``weight/<knowledge>`` the
    plain weight that a share became.
    """

    status: Status
    score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    error: str | None = None
    seconds: float | None = None
    host: str | None = None
    device: str | None = None
    early_score: float | None = None

    @property
    def completed(self) -> bool:
        return self.status is Status.COMPLETED

    @property
    def ranked(self) -> bool:
        """Whether the candidate has a place among others: completed, or stopped below them."""
        return self.status in (Status.COMPLETED, Status.STOPPED)

    @property
    def plain_weights(self) -> dict[str, float]:
        """The plain weights that the distiller's shares became, by knowledge."""
        return {
            name.removeprefix(PLAIN_WEIGHT): value
            for name, value in self.metrics.items()
            if name.startswith(PLAIN_WEIGHT)
        }

    def checked(self) -> Outcome:
        """This outcome; a failed outcome in its place if a score is NaN or infinite.

        NaN has no rank among scores, and databases disagree on it: SQLite stores NULL, PostgreSQL
        sorts NaN above all numbers.
        """
        scores = {"score": self.score, "early score": self.early_score}
        for name, value in scores.items():
            if self.ranked and value is not None and not math.isfinite(value):
                error = f"the {name} is {float(value)}: an AP is a number from 0 to 1"
                return replace(
                    self, status=Status.FAILED, score=None, early_score=None, error=error
                )
        return self

    def to_json(self) -> str:
        """One line of JSON: how an outcome travels between processes and into files."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        fields = json.loads(text)
        return cls(**{**fields, "status": Status(fields["status"])})

    @classmethod
    def rejected(cls, reason: str) -> Outcome:
        return cls(Status.REJECTED, reason=reason)

    @classmethod
    def failed(cls, error: str, host: str | None = None, device: str | None = None) -> Outcome:
        return cls(Status.FAILED, error=error, host=host, device=device)
