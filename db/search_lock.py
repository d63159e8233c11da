"""One process at a time runs a search: its lock, which ends with the process, and its checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..space import WrongUse
from .database import file_of
from .models import Search, Trial, find


@contextmanager
def locked(engine: Engine, name: str) -> Iterator[None]:
    """Hold the lock of the search of this name: a file beside a SQLite file, or a server's lock.

    A SQLite database in memory, or given as a ``file:`` URI, has no lock. Raises
    :class:`WrongUse` when another process holds the lock.
    """
    key = sha256(f"detkds search {name}".encode()).digest()[:8]
    acquire = _acquire_in_server if engine.dialect.name == "postgresql" else _acquire_file
    with ExitStack() as stack:
        if not acquire(engine, key, stack):
            raise another_process(name)
        yield


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


def _acquire_file(engine: Engine, key: bytes, stack: ExitStack) -> bool:
    file = file_of(engine.url)
    if file is None:
        return True
    try:
        lock = FileLock(file.with_name(f"{file.name}-{key.hex()}.lock"))
        stack.enter_context(lock.acquire(blocking=False))
    except Timeout:
        return False
    return True


def _acquire_in_server(engine: Engine, key: bytes, stack: ExitStack) -> bool:
    """The server releases the lock when the connection closes, so the pool must not keep it."""
    connection = stack.enter_context(engine.connect())
    connection.detach()
    number = int.from_bytes(key, "big", signed=True)
    acquired = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": number})
    connection.commit()
    return bool(acquired)
