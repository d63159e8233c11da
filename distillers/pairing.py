"""Pairing: which levels and responses of a student and a teacher can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..detectors import Signature
from ..space import (
    CROSS_KNOWLEDGE,
    FEATURE_KNOWLEDGE,
    KNOWLEDGE,
    LABEL,
    POSITIONS,
    RESPONSE_KNOWLEDGE,
    Distiller,
    WrongUse,
)

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


def common_strides(strides: Mapping[str, Iterable[int]]) -> tuple[int, ...]:
    """The strides that all models have levels of, finest first.

    ``strides``: the strides of each model's levels, by the model's name. Raises :class:`WrongUse`
    if the models share none.
    """
    shared = set.intersection(*map(set, strides.values()))
    if not shared:
        listed = ", ".join(f"{name} has {list(levels)}" for name, levels in strides.items())
        raise WrongUse(f"no stride is common to the levels of all models: {listed}", "teachers")
    return tuple(sorted(shared))


def mismatch(knowledge: str, student: Signature, teacher: Signature) -> str | None:
    """Why a pair can't be compared by a kind of knowledge, or None if it can; names both sides."""
    if knowledge == LABEL:
        return label_fault(student)
    if knowledge in FEATURE_KNOWLEDGE:
        return None
    if knowledge in CROSS_KNOWLEDGE:
        return _cross_mismatch(knowledge, student, teacher)
    return _response_mismatch(knowledge == "localization", student, teacher)


def label_fault(student: Signature) -> str | None:
    """Why a student can't be its own teacher (SSSD), or None."""
    if student.classes is None:
        return f"{student.name} has no head that tells classes apart"
    if student.encoded:
        return f"{student.name}'s head reads its encoder's memory, not the neck's maps"
    if len(set(student.channels)) > 1:
        return f"{student.name} has levels of unlike channels {list(student.channels)}"
    return None


def _cross_mismatch(knowledge: str, student: Signature, teacher: Signature) -> str | None:
    for side in (student, teacher):
        if side.layers is None:
            return f"{side.name} {side.unlayered}"
    if student.strides != teacher.strides:
        return (
            f"{student.name} has levels of stride {list(student.strides)} and {teacher.name} of "
            f"{list(teacher.strides)}"
        )
    return _response_mismatch(knowledge == CROSS_KNOWLEDGE[1], student, teacher)


def _response_mismatch(boxes: bool, student: Signature, teacher: Signature) -> str | None:
    ours, theirs = student.responses, teacher.responses
    if ours is None or theirs is None:
        side = student if ours is None else teacher
        return f"{side.name} {side.unread}"
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
    if boxes and ours.unlabelled:
        return f"{student.name} {ours.unlabelled}, and boxes are compared where it has positives"
    if boxes and ours.boxes != theirs.boxes:
        return f"{student.name} regresses {ours.boxes} and {teacher.name} {theirs.boxes}"
    return None


def available_knowledge(student: Signature, teacher: Signature | None) -> tuple[str, ...]:
    """The kinds of knowledge that this pair, or a student without a teacher, can be compared by."""
    if teacher is None:
        return () if label_fault(student) else (LABEL,)
    pair_levels(student, teacher)
    return tuple(name for name in KNOWLEDGE if mismatch(name, student, teacher) is None)


def excluded(knowledge: str, student: Signature, teacher: Signature | None) -> dict[str, str]:
    """Options of one kind of knowledge that a pair has no use for, and why."""
    found: dict[str, str] = {}
    if teacher is None:
        return found
    if knowledge in RESPONSE_KNOWLEDGE + CROSS_KNOWLEDGE:
        scores = student.responses.scores if student.responses else ""
        if not scores.startswith("sigmoid"):
            found["quality_focal"] = f"scores are by {scores}, not by sigmoid"
        elif student.responses and student.responses.unlabelled:
            found["quality_focal"] = (
                f"it is divided by the number of positives, and {student.name} "
                f"{student.responses.unlabelled}"
            )
    if knowledge in CROSS_KNOWLEDGE and student.layers and teacher.layers:
        counts = student.layers.count, teacher.layers.count
        for name in POSITIONS[1:]:
            i = int(name.removeprefix("after_"))
            if i >= min(counts) and not i == counts[0] == counts[1]:
                found[name] = (
                    f"the heads of {student.name} and {teacher.name} have {counts[0]} and "
                    f"{counts[1]} layers: give after_0 to after_{min(counts) - 1}"
                )
        bins = student.layers.bins, teacher.layers.bins
        if knowledge == CROSS_KNOWLEDGE[1] and not bins[0] == bins[1] > 0:
            found["kl"] = (
                f"it compares the bins of distributions, and {student.name}'s head answers "
                f"{bins[0]} and {teacher.name}'s {bins[1]} of them"
                if any(bins)
                else "it compares the bins of distributions, and the heads answer none"
            )
    return found


def check_pair(distiller: Distiller, student: Signature, teacher: Signature | None) -> None:
    """Raise :class:`WrongUse` if the distiller asks for knowledge that the pair can't share."""
    if teacher is not None:
        pair_levels(student, teacher)
    for term in distiller.active:
        if teacher is None and term.knowledge != LABEL:
            raise WrongUse(f"'{term.knowledge}' is learned from a teacher: give `teacher`")
        reason = (
            label_fault(student) if teacher is None else mismatch(term.knowledge, student, teacher)
        )
        if reason:
            others = ", ".join(available_knowledge(student, teacher))
            who = student.name if teacher is None else "the pair"
            use = f"use {others}" if others else "give `teacher`"
            raise WrongUse(f"{who} has no knowledge '{term.knowledge}': {reason}; {use}")
        useless = excluded(term.knowledge, student, teacher)
        for name in (*term.transforms, term.distance):
            if name in useless:
                raise WrongUse(f"{term.knowledge}: '{name}': {useless[name]}")
