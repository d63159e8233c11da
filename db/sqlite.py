"""What SQLite needs beyond a URL: where its file lies, connection settings, transactions."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

_LOCK_TIMEOUT_SECONDS = 30
_RETRY_SECONDS = 0.05
#: Execution options of transactions that only read: on SQLite they need not wait for a writer.
READING = {"sqlite_begin": "DEFERRED"}


def create_sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for one in memory or given as SQLite's own ``file:`` URI."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return None if url.database.startswith("file:") else Path(url.database)


def use_write_ahead_log(engine: Engine) -> None:
    """Set the journal mode, which stays with the file and cannot be set in a transaction.

    SQLite does not wait for others here, as it does before it writes: processes that open a new
    database at once try again.
    """
    connection = engine.raw_connection()
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    try:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)
    finally:
        connection.close()


def remove_if_empty(file: Path, error: Exception) -> None:
    """Remove the file of 0 bytes that a failed set-up leaves, unless another process is at it."""
    if "locked" not in str(error) and file.exists() and file.stat().st_size == 0:
        file.unlink()


def _configure(connection: sqlite3.Connection, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: Connection) -> None:
    # Python's sqlite3 begins a transaction only before it changes rows, which leaves changes of the
    # schema out. And one that reads first and writes later fails at once, without waiting, when
    # another has written meanwhile; one that takes the write lock at its start waits for its turn.
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")
