"""Who runs a search now, for pages that show it."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from .lease import EXPIRY_SECONDS, _has_ended, _now, _who
from .models import Lease
from .store import Store


def runner_of(store: Store, name: str) -> str | None:
    """Who runs the search of this name, and since when; None if nobody does."""

    def find(session: Session) -> str | None:
        lease = session.get(Lease, name)
        if lease is None or lease.heartbeat is None or _has_ended(lease):
            return None
        alive = lease.heartbeat > _now(session) - timedelta(seconds=EXPIRY_SECONDS)
        return _who(lease) if alive else None

    return store._transactions.read(find)
