"""Pairing: which levels and responses of a student and a teacher can be compared."""

from __future__ import annotations

from dataclasses import dataclass

from ..detectors import Signature
from ..space import FEATURE_KNOWLEDGE, KNOWLEDGE, Distiller, WrongUse

KINDS = {"dense": "at every position", "region": "for regions"}


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


def mismatch(knowledge: str, student: Signature, teacher: Signature) -> str | None:
    """Why a pair can't be compared by a kind of knowledge, or None if it can; names both sides."""
    if knowledge in FEATURE_KNOWLEDGE:
        return None
    ours, theirs = student.responses, teacher.responses
    if ours is None or theirs is None:
        side = student if ours is None else teacher
        return f"{side.name} has no head whose responses detkds reads"
    if ours.kind != theirs.kind:
        return f"{student.name} answers {KINDS[ours.kind]} and {teacher.name} {KINDS[theirs.kind]}"
    if ours.classes != theirs.classes:
        return f"{student.name} has {ours.classes} classes and {teacher.name} has {theirs.classes}"
    if ours.scores != theirs.scores:
        return f"{student.name} scores by {ours.scores} and {teacher.name} by {theirs.scores}"
    if ours.kind == "dense":
        pairing = pair_levels(student, teacher)
        priors = [ours.priors[i] for i in pairing.student_levels]
        others = [theirs.priors[i] for i in pairing.teacher_levels]
        if priors != others:
            return f"{student.name} has {priors} priors a position and {teacher.name} has {others}"
    if knowledge == "localization" and ours.boxes != theirs.boxes:
        return f"{student.name} regresses {ours.boxes} and {teacher.name} {theirs.boxes}"
    return None


def available_knowledge(student: Signature, teacher: Signature) -> tuple[str, ...]:
    """The kinds of knowledge that this pair can be compared by."""
    pair_levels(student, teacher)
    return tuple(name for name in KNOWLEDGE if mismatch(name, student, teacher) is None)


def check_pair(distiller: Distiller, student: Signature, teacher: Signature) -> None:
    """Raise :class:`WrongUse` if the distiller asks for knowledge that the pair can't share."""
    pair_levels(student, teacher)
    for term in distiller.active:
        reason = mismatch(term.knowledge, student, teacher)
        if reason:
            raise WrongUse(
                f"the pair has no knowledge '{term.knowledge}': {reason}; use "
                + ", ".join(available_knowledge(student, teacher))
            )
