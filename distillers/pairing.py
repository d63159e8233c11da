"""Pairs of detectors: which levels and which responses of the two can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..detectors import Knowledge, Signature
from ..space import WrongUse

RESPONDS = {"dense": "at every position", "region": "for regions"}


@dataclass(frozen=True)
class PairedLevels:
    """The levels of student and teacher that share a stride, finest first."""

    strides: tuple[int, ...]
    #: Places of the levels among the student's levels.
    student: tuple[int, ...]
    #: Places of the levels among the teacher's levels.
    teacher: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A student and the teacher that it learns from."""

    student: Signature
    #: None for a student that learns from the labels alone.
    teacher: Signature | None = None
    #: The teacher's dense head, which CrossKD continues the student's head by.
    head: Any = None

    @cached_property
    def levels(self) -> PairedLevels:
        """The levels of both; without a teacher, all levels of the student."""
        return pair_levels(self.student, self.teacher or self.student)

    @property
    def both(self) -> tuple[Signature, Signature]:
        """Student and teacher, for knowledge that a teacher gives."""
        assert self.teacher is not None
        return self.student, self.teacher

    def select(self, student: Knowledge, teacher: Knowledge) -> tuple[Knowledge, Knowledge]:
        """What both know at the paired levels."""
        return student.select(self.levels.student), teacher.select(self.levels.teacher)

    def __deepcopy__(self, memo: dict) -> Pair:
        """The pair itself: nothing of it changes, and the teacher's head is never copied."""
        return self


def pair_levels(student: Signature, teacher: Signature) -> PairedLevels:
    """Pair levels by stride; raises :class:`WrongUse` naming both sides if they share none."""
    strides = tuple(stride for stride in student.strides if stride in teacher.strides)
    if not strides:
        raise WrongUse(
            f"{student.name} has levels of stride {list(student.strides)} and {teacher.name} of "
            f"{list(teacher.strides)}: they share none, so no feature can be compared"
        )
    return PairedLevels(
        strides,
        tuple(student.strides.index(stride) for stride in strides),
        tuple(teacher.strides.index(stride) for stride in strides),
    )


def response_mismatch(pair: Pair, boxes: bool) -> str | None:
    """Why the class scores of a pair can't be compared, or None; with ``boxes``, the boxes too."""
    student, teacher = pair.both
    ours, theirs = student.responses, teacher.responses
    if ours is None or theirs is None:
        side = student if ours is None else teacher
        return f"{side.name} {side.unread}"
    if ours.kind != theirs.kind:
        return (
            f"{student.name} answers {RESPONDS[ours.kind]} and {teacher.name} "
            f"{RESPONDS[theirs.kind]}"
        )
    if ours.classes != theirs.classes:
        return f"{student.name} has {ours.classes} classes and {teacher.name} has {theirs.classes}"
    if ours.scores != theirs.scores:
        return f"{student.name} scores by {ours.scores} and {teacher.name} by {theirs.scores}"
    if ours.kind == "dense":
        priors = [ours.priors[i] for i in pair.levels.student]
        others = [theirs.priors[i] for i in pair.levels.teacher]
        if priors != others:
            return f"{student.name} has {priors} priors a position and {teacher.name} has {others}"
    if boxes and ours.unlabelled:
        return f"{student.name} {ours.unlabelled}, and boxes are compared where it has positives"
    if boxes and ours.boxes != theirs.boxes:
        return f"{student.name} regresses {ours.boxes} and {teacher.name} {theirs.boxes}"
    return None


def useless_quality_focal(pair: Pair) -> dict[str, str]:
    """``quality_focal`` and why, if class scores of this pair can't be compared by it."""
    responses = pair.student.responses
    scores = responses.scores if responses else ""
    if not scores.startswith("sigmoid"):
        return {"quality_focal": f"scores are by {scores}, not by sigmoid"}
    if responses and responses.unlabelled:
        return {
            "quality_focal": f"it is divided by the number of positives, and {pair.student.name} "
            f"{responses.unlabelled}"
        }
    return {}
