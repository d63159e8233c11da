"""Pairing: which levels and responses of a student and a teacher can be compared."""

from __future__ import annotations

from dataclasses import dataclass

from ..detectors import Signature
from ..space import FEATURE_KNOWLEDGE, KNOWLEDGE, RESPONSE_KNOWLEDGE, Distiller, WrongUse


@dataclass(frozen=True)
class Pairing:
    """Levels of the student and of the teacher that share a stride, finest first."""

    strides: tuple[int, ...]
    student_levels: tuple[int, ...]
    teacher_levels: tuple[int, ...]


def pair_levels(student: Signature, teacher: Signature) -> Pairing:
    """Pair levels by stride; raises :class:`WrongUse` naming both sides if they share none."""
    strides = tuple(stride for stride in student.strides if stride in teacher.strides)
    if not strides:
        raise WrongUse(
            f"{student.name} has levels of stride {list(student.strides)} and {teacher.name} of "
            f"{list(teacher.strides)}: they share none, so no feature can be compared"
        )
    return Pairing(
        strides,
        tuple(student.strides.index(stride) for stride in strides),
        tuple(teacher.strides.index(stride) for stride in strides),
    )


def responses_differ(student: Signature, teacher: Signature) -> str | None:
    """Why the responses of the pair can't be compared, or None if they line up."""
    for side in (student, teacher):
        if side.priors is None:
            return f"{side.name} has no dense head whose responses detkds reads"
    if student.num_classes != teacher.num_classes:
        return (
            f"{student.name} has {student.num_classes} classes and {teacher.name} has "
            f"{teacher.num_classes}"
        )
    pairing = pair_levels(student, teacher)
    ours = [student.priors[i] for i in pairing.student_levels]  # type: ignore[index]
    theirs = [teacher.priors[i] for i in pairing.teacher_levels]  # type: ignore[index]
    if ours != theirs:
        return f"{student.name} has {ours} priors a position and {teacher.name} has {theirs}"
    return None


def available_knowledge(student: Signature, teacher: Signature) -> tuple[str, ...]:
    """The kinds of knowledge that this pair can be compared by."""
    pair_levels(student, teacher)
    return FEATURE_KNOWLEDGE if responses_differ(student, teacher) else KNOWLEDGE


def check_pair(distiller: Distiller, student: Signature, teacher: Signature) -> None:
    """Raise :class:`WrongUse` if the distiller asks for knowledge that the pair can't share."""
    pair_levels(student, teacher)
    asked = [t.knowledge for t in distiller.active if t.knowledge in RESPONSE_KNOWLEDGE]
    reason = responses_differ(student, teacher) if asked else None
    if reason:
        raise WrongUse(
            f"the pair has no knowledge '{asked[0]}': {reason}; use {', '.join(FEATURE_KNOWLEDGE)}"
        )
