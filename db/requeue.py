"""What a resume puts back into the queue: trials that were running, and failures of no candidate's.

Both keep what a replay needs: trials are asked for and told in an order that a controller repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ..space import Status
from .models import Trial


def requeue_running(session: Session, search_id: int) -> int:
    running = session.scalars(
        select(Trial).filter_by(search_id=search_id, status=Status.RUNNING)
    ).all()
    _queue(running)
    return len(running)


def requeue_failures(session: Session, search_id: int, in_a_row: int) -> int:
    """Untell the failures that ended the search, or that it ends with; returns how many.

    Trials asked for after the first of them are forgotten, since without them others might be
    asked for. What was told after it of earlier trials moves up.
    """
    trials = session.scalars(
        select(Trial).filter_by(search_id=search_id).order_by(Trial.number)
    ).all()
    told = sorted((t for t in trials if t.told is not None), key=lambda t: t.told or 0)
    first = _first_failure(told, in_a_row)
    if first is None:
        return 0
    forgotten = [trial for trial in trials if trial.asked_after > first]
    ids = [trial.id for trial in forgotten]
    session.execute(update(Trial).where(Trial.reused_from.in_(ids)).values(reused_from=None))
    for trial in told[first:]:
        trial.told = None
    for trial in forgotten:
        session.delete(trial)
    session.flush()  # places are free before they are given out anew
    kept = [trial for trial in told[first:] if trial.asked_after <= first]
    failed = [trial for trial in kept if trial.status is Status.FAILED]
    _queue(failed)
    for place, trial in enumerate((t for t in kept if t not in failed), start=first):
        trial.told = place
    return sum(trial.status is Status.FAILED for trial in forgotten) + len(failed)


def _first_failure(told: Sequence[Trial], in_a_row: int) -> int | None:
    """Where the failures begin, with no other outcome of a worker among them."""
    first, count = None, 0
    for place, trial in enumerate(told):
        if trial.status is Status.FAILED:
            first, count = place if first is None else first, count + 1
            if count >= in_a_row:
                return first
        elif trial.started is not None:
            first, count = None, 0
    return first


def _queue(trials: Iterable[Trial]) -> None:
    for trial in trials:
        trial.status = Status.QUEUED
        trial.started = trial.finished = trial.seconds = None
        trial.host = trial.device = trial.error = None
