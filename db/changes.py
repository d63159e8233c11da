"""Steps that the store's transactions share: finding rows, writing outcomes, telling clashes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..space import Outcome, WrongUse
from .models import Search, Training, Trial
from .rows import FINISHED

Model = TypeVar("Model", Search, Trial, Training)


def now() -> datetime:
    return datetime.now(timezone.utc)


def get(session: Session, model: type[Model], row_id: int) -> Model:
    """The row of this id. Raises LookupError when there is none."""
    found = session.get(model, row_id)
    if found is None:
        raise LookupError(f"the store holds no row {row_id} in {model.__tablename__}")
    return found


def get_untold(session: Session, trial_id: int) -> Trial:
    """The trial, without an outcome yet. Raises :class:`WrongUse` if another process told it."""
    trial = get(session, Trial, trial_id)
    if trial.told is not None:
        raise another_process(get(session, Search, trial.search_id).name)
    return trial


def write_outcome(run: Trial | Training, outcome: Outcome) -> None:
    """Copy an outcome into its row. Raises ValueError for a state that is not a final one."""
    if outcome.status not in FINISHED:
        raise ValueError(f"an outcome is completed, rejected or failed, not {outcome.status.value}")
    run.status, run.seconds = outcome.status, outcome.seconds
    # Evaluators hand out NumPy's numbers too: JSON refuses those and SQLite keeps their bytes.
    run.score = None if outcome.score is None else float(outcome.score)
    run.metrics = {name: float(value) for name, value in outcome.metrics.items()}
    run.reason, run.error = outcome.reason, outcome.error
    run.host, run.device = outcome.host or run.host, outcome.device or run.device
    run.finished = now()


def flush_alone(session: Session, search: Search) -> None:
    """Write. Raises :class:`WrongUse` when another process gave out the same number."""
    name = search.name
    try:
        session.flush()
    except IntegrityError:
        raise another_process(name) from None


def another_process(name: str) -> WrongUse:
    return WrongUse(f"--resume: another process runs the search '{name}': let it finish or stop it")
