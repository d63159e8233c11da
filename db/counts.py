"""How many trials of a search are in which state, and why they were rejected."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from ..space import Status
from .models import Trial
from .store import Store


def counts_by_stage(store: Store, search_id: int) -> dict[tuple[str, Status], int]:
    """The number of trials in each state of each stage, where there are any."""
    return {(stage, status): n for stage, status, n in _rows(store, search_id, Trial.stage)}


def rejections(store: Store, search_id: int) -> dict[str | None, int]:
    """The number of rejected trials by their reason."""
    rows = _rows(store, search_id, Trial.reason)
    return {reason: n for reason, status, n in rows if status is Status.REJECTED}


def _rows(store: Store, search_id: int, column: Any) -> list[Any]:
    """The trials of a search by a column and their state: (value, state, number)."""
    query = select(column, Trial.status, func.count()).filter_by(search_id=search_id)
    grouped = query.group_by(column, Trial.status)
    return store._transactions.read(lambda session: list(session.execute(grouped)))
