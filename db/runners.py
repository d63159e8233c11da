"""Who runs a search now, and what it does, for pages that show it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from .lease import EXPIRY_SECONDS, _has_ended, _now, _who
from .models import Lease
from .store import Store


def runner_of(store: Store, name: str) -> str | None:
    """Who runs the search of this name, and since when; None if nobody does."""
    found = runner_and_doing(store, name)
    return found and found[0]


def runner_and_doing(store: Store, name: str) -> tuple[str, dict[str, Any]] | None:
    """Who runs the search of this name, and what the driver last said that it does.

    None if nobody runs it.
    """

    def find(session: Session) -> tuple[str, dict[str, Any]] | None:
        lease = session.get(Lease, name)
        if lease is None or lease.heartbeat is None or _has_ended(lease):
            return None
        alive = lease.heartbeat > _now(session) - timedelta(seconds=EXPIRY_SECONDS)
        return (_who(lease), lease.doing or {}) if alive else None

    return store._transactions.read(find)


def doing_now(store: Store, **doing: Any) -> None:
    """What this process, which runs a search, does now: plain data that goes into JSON.

    Its next heartbeat writes it down.
    """
    store._transactions.doing = doing
