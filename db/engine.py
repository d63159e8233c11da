"""Opening a database: its URL, its settings, its schema; what goes wrong is told in one line."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from ..space import WrongUse
from .migrate import upgrade

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_LOCK_TIMEOUT_SECONDS = 30
_CONNECT_TIMEOUT_SECONDS = 10
#: For transactions that only read: on SQLite they need not wait for a writer.
READING = {"sqlite_begin": "DEFERRED"}


def open_database(url: str) -> Engine:
    """Connect to a database, made if it is SQLite and new, and bring its schema up to date.

    Raises :class:`WrongUse` naming ``--storage``, the URL and the reason; a SQLite file that could
    not be set up is not left behind.
    """
    parsed = _parse(url)
    file = _sqlite_file(parsed)
    if file is not None:
        _check_place(url, file)
    is_new = file is not None and not file.exists()
    engine = _create_engine(parsed)
    try:
        upgrade(engine)
        if file is not None:
            _use_write_ahead_log(engine)
    except CommandError:
        engine.dispose()
        raise _unusable(
            url,
            "its schema is none that this version of detkds knows, a newer one may have written "
            "it: update detkds or give another database",
        ) from None
    except (DBAPIError, sqlite3.Error, TypeError) as error:
        engine.dispose()
        if file is not None and is_new:
            _remove_if_empty(file, error)
        raise _unusable(url, _reason(error)) from None
    return engine


def hide_password(url: str) -> str:
    """The URL fit to be shown, well-formed or not."""
    without_login = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without_login)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their text may show a piece of the password
        raise _unusable(
            url,
            "it is not a database URL: write it as sqlite:///folder/detkds.db or "
            "postgresql+psycopg://user:password@host/database",
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise _unusable(
            url, f"'{parsed.drivername}' is not supported: use sqlite or postgresql+psycopg"
        )
    if "@" in (parsed.host or ""):  # what stands there is the end of the password
        raise _unusable(url, "an @ in the user's name or password is written %40")
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


def _check_place(url: str, file: Path) -> None:
    if not file.parent.is_dir():
        raise _unusable(url, f"the folder {file.parent} does not exist: make it first")
    if file.is_dir():
        raise _unusable(url, f"{file} is a folder: name a file in it")


def _sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite URL; None for one in memory or given as SQLite's own ``file:`` URI."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return None if url.database.startswith("file:") else Path(url.database)


def _create_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT_SECONDS})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    timeout = (
        {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_TIMEOUT_SECONDS}
    )
    # Between two trials lie minutes or hours: a connection may have been dropped meanwhile.
    return create_engine(url, connect_args=timeout, pool_pre_ping=True)


def _configure_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    # Python's sqlite3 begins a transaction only before it changes rows, which leaves changes of the
    # schema out. And one that reads first and writes later fails at once, without waiting, when
    # another has written meanwhile; one that takes the write lock at its start waits for its turn.
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _use_write_ahead_log(engine: Engine) -> None:
    """Set the journal mode, which stays with the file and cannot be set in a transaction."""
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _remove_if_empty(file: Path, error: Exception) -> None:
    """Remove the file of 0 bytes that a failed set-up leaves, unless another process is at it."""
    if "locked" not in str(error) and file.exists() and file.stat().st_size == 0:
        file.unlink()


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _unusable(url: str, reason: str) -> WrongUse:
    return WrongUse(f"--storage: can't use '{hide_password(url)}': {reason}")
