"""What a worker needs to know to train the student once."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from .base import Settings
from .data import Data
from .models import Model


class Task(Settings):
    """Plain data, the same on every host."""

    student: Model
    teacher: Model | None
    #: Whether a distilled student starts from the teacher's neck and head.
    inherit: bool = False
    #: mmengine's config of the training, besides models, schedule and what ``data`` says.
    job: dict[str, Any] = {}
    data: Data
    #: torch's threads.
    threads: int = 1

    @field_validator("student")
    @classmethod
    def _no_schedule(cls, student: Model) -> Model:
        if student.schedule is not None:
            raise ValueError("a student is trained by `trial` and `final`, not by its own schedule")
        return student
