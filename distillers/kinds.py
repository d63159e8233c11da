"""The table of the kinds of knowledge, and what a pair of detectors can share of them."""

from __future__ import annotations

from ..detectors import Signature
from ..space import EXTENDED, KNOWLEDGE, Distiller, WrongUse
from .cross import CrossLocalization, CrossLogits
from .features import ForegroundBackground, ForegroundBackgroundByArea, Global, Instance
from .kind import Kind
from .label import Label
from .mgd import MGD
from .pairing import Pair
from .responses import Localization, Logits

#: The class of every kind of knowledge that ``space`` names.
KINDS: dict[str, type[Kind]] = {
    "global": Global,
    "fgbg": ForegroundBackground,
    "instance": Instance,
    "logits": Logits,
    "localization": Localization,
    "cross_logits": CrossLogits,
    "cross_localization": CrossLocalization,
    "label": Label,
    "mgd": MGD,
    "fgbg_area": ForegroundBackgroundByArea,
}


def mismatch(knowledge: str, student: Signature, teacher: Signature | None) -> str | None:
    """Why a pair can't be compared by a kind of knowledge; None if the pair can."""
    if teacher is None and EXTENDED[knowledge].teacher:
        return "there is no teacher"
    return KINDS[knowledge].mismatch(Pair(student, teacher))


def available_knowledge(student: Signature, teacher: Signature | None) -> tuple[str, ...]:
    """The kinds of knowledge that a pair, or a student without a teacher, can be compared by.

    Raises :class:`WrongUse` for a pair whose levels share no stride.
    """
    _ = Pair(student, teacher).levels
    return tuple(name for name in KNOWLEDGE if mismatch(name, student, teacher) is None)


def excluded(knowledge: str, student: Signature, teacher: Signature | None) -> dict[str, str]:
    """Options of a kind of knowledge that a pair has no use for, and why."""
    if teacher is None:
        return {}
    return KINDS[knowledge].excluded(Pair(student, teacher))


def check_pair(distiller: Distiller, student: Signature, teacher: Signature | None) -> None:
    """Raise :class:`WrongUse` if the distiller asks for knowledge that the pair can't share."""
    if not distiller.active:
        return
    available = available_knowledge(student, teacher)
    for term in distiller.active:
        if teacher is None and EXTENDED[term.knowledge].teacher:
            raise WrongUse(f"'{term.knowledge}' is learned from a teacher: give `teacher`")
        if term.knowledge not in available:
            who = student.name if teacher is None else "the pair"
            use = f"use {', '.join(available)}" if available else "give `teacher`"
            reason = mismatch(term.knowledge, student, teacher)
            raise WrongUse(f"{who} has no knowledge '{term.knowledge}': {reason}; {use}")
        useless = excluded(term.knowledge, student, teacher)
        for name in (*term.transforms, term.distance):
            if name in useless:
                raise WrongUse(f"{term.knowledge}: '{name}': {useless[name]}")
