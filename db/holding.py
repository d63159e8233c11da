"""One process at a time runs a search: a lock that ends with the process that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

from filelock import FileLock, Timeout
from sqlalchemy import Engine, text

from .changes import another_process
from .sqlite import file_of


@contextmanager
def held(engine: Engine, name: str) -> Iterator[None]:
    """Hold a search by its name, in a file beside a SQLite database or in PostgreSQL itself.

    Raises :class:`WrongUse` when another process holds it.
    """
    with ExitStack() as stack:
        take = _take_in_server if engine.dialect.name == "postgresql" else _take_file
        if not take(engine, sha256(f"detkds search {name}".encode()).digest()[:8], stack):
            raise another_process(name)
        yield


def _take_file(engine: Engine, key: bytes, stack: ExitStack) -> bool:
    file = file_of(engine.url)
    if file is None:
        return True
    try:
        lock = FileLock(file.with_name(f"{file.name}-{key.hex()}.lock"))
        stack.enter_context(lock.acquire(blocking=False))
    except Timeout:
        return False
    return True


def _take_in_server(engine: Engine, key: bytes, stack: ExitStack) -> bool:
    """The lock is the connection's: one of its own, which no pool keeps open."""
    connection = stack.enter_context(engine.connect())
    connection.detach()
    number = int.from_bytes(key, "big", signed=True)
    taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": number})
    connection.commit()
    return bool(taken)
