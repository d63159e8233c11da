"""What goes on after an interruption: trials that were interrupted, failures, a whole search.

A resume repeats the stored search: a fresh controller is asked for the trials and told their
outcomes in the stored order. What is queued again leaves an order that a controller can repeat.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import __version__
from ..space import Status, WrongUse
from .lease import holder
from .models import Search, Trial, find
from .rows import SCORED


def requeue_running(session: Session, search_id: int) -> int:
    """Queue the running trials of a search again; returns how many."""
    running = session.scalars(
        select(Trial).filter_by(search_id=search_id, status=Status.RUNNING)
    ).all()
    _queue(running)
    return len(running)


def requeue_failures(session: Session, search_id: int, in_a_row: int) -> int:
    """Queue the failures again that ended the search; returns how many failures are taken back.

    These are the failures of the first row of at least ``in_a_row`` failures; if there is no such
    row, the failures that the search ends with. Rejected trials, which may have ended before a
    student was trained, and trials that copied an outcome do not interrupt a row.

    Trials asked for after the first of these failures was told are deleted, because without the
    failure the search might ask for other trials. A score, which cost a worker's time, is never
    deleted: failures that were told before its trial was asked for stay failures, and the later
    failures are queued again. Later outcomes of the remaining trials keep their sequence and move
    up in the order of telling.
    """
    trials = session.scalars(
        select(Trial).filter_by(search_id=search_id).order_by(Trial.number)
    ).all()
    told = sorted(
        (trial for trial in trials if trial.tell_order is not None),
        key=lambda trial: trial.tell_order or 0,
    )
    first = _first_failure(told, in_a_row)
    if first is None:
        return 0
    least = max([first, *(trial.asked_after for trial in told if _is_scored(trial))])
    failures = (place for place, trial in enumerate(told) if trial.status is Status.FAILED)
    first = next((place for place in failures if place >= least), None)
    if first is None:
        return 0
    deleted = [trial for trial in trials if trial.asked_after > first]
    for trial in told[first:]:
        trial.tell_order = None
    for trial in deleted:
        session.delete(trial)
    session.flush()  # a place in the order must be free before another trial takes it
    kept = [trial for trial in told[first:] if trial.asked_after <= first]
    failed = [trial for trial in kept if trial.status is Status.FAILED]
    _queue(failed)
    others = [trial for trial in kept if trial not in failed]
    for place, trial in enumerate(others, start=first):
        trial.tell_order = place
    return sum(trial.status is Status.FAILED for trial in deleted) + len(failed)


def begin_anew(
    session: Session, search_id: int, config: dict[str, Any], conditions: str, seed: int
) -> Search:
    """Let a search without scores begin again under another config; its trials are deleted.

    Raises :class:`WrongUse` if a trial has a score: it would not compare.
    """
    search = find(session, Search, search_id)
    trials = session.scalars(select(Trial).filter_by(search_id=search_id)).all()
    scored = sum(trial.status in SCORED for trial in trials)
    if scored:
        raise WrongUse(f"the search '{search.name}' has {scored} scored trials: resume it", "name")
    for trial in trials:
        session.delete(trial)
    search.config, search.conditions, search.seed = config, conditions, seed
    search.version, search.host, search.holder = __version__, platform.node(), holder()
    session.flush()
    return search


def _first_failure(told: Sequence[Trial], in_a_row: int) -> int | None:
    """The place in the order of telling of the first failure of the row; None without a row."""
    first, count = None, 0
    for place, trial in enumerate(told):
        if trial.status is Status.FAILED:
            first, count = place if first is None else first, count + 1
            if count >= in_a_row:
                return first
        elif _is_scored(trial):
            first, count = None, 0
    return first


def _is_scored(trial: Trial) -> bool:
    """Whether a worker trained a student and scored it, halfway at least."""
    return trial.reused_from is None and trial.status in SCORED


def _queue(trials: Iterable[Trial]) -> None:
    for trial in trials:
        trial.status = Status.QUEUED
        trial.started = trial.finished = trial.seconds = None
        trial.host = trial.device = trial.error = None
