"""What tells that two processes write the same search, whatever leases say."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..space import WrongUse
from .models import Search, Trial, find


def another_process(name: str) -> WrongUse:
    """The error that says that two processes run the search of this name."""
    return WrongUse(
        f"another process runs the search '{name}': let it finish or stop it", setting="resume"
    )


def find_untold(session: Session, trial_id: int) -> Trial:
    """A trial without an outcome. Raises :class:`WrongUse` if another process told its outcome."""
    trial = find(session, Trial, trial_id)
    if trial.tell_order is not None:
        raise another_process(find(session, Search, trial.search_id).name)
    return trial


def flush(session: Session, search: Search) -> None:
    """Write. Raises :class:`WrongUse` when another process has taken the number or the place."""
    name = search.name
    try:
        session.flush()
    except IntegrityError:
        raise another_process(name) from None
