"""Opening a database: its URL, the settings of its connections, and its schema."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..space import WrongUse
from ..space.errors import hide_password
from .models import Base

MIGRATIONS = Path(__file__).parent / "migrations"
#: Execution options of a transaction that only reads: on SQLite it does not wait for a writer.
READING = {"sqlite_begin": "DEFERRED"}

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
#: With these settings a client notices after a minute that a PostgreSQL server is gone. The
#: kernel's defaults take hours.
_POSTGRESQL_SETTINGS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
#: Every process that upgrades a PostgreSQL database takes the lock of this (arbitrary) number.
_UPGRADE_LOCK = 0x6465746B6473
_LOCK_TIMEOUT_SECONDS = 30
_RETRY_SECONDS = 0.05


def open_database(url: str, create: bool = True) -> Engine:
    """Connect to a database and bring its schema up to date; ``create`` makes a new SQLite file.

    A PostgreSQL database, which other versions may use, is set up if it is empty, and otherwise
    upgraded by nobody but :func:`upgrade_database`.

    Raises :class:`WrongUse` with the URL and the reason when the database cannot be used. A new
    SQLite file that could not be set up is removed.
    """
    engine, file, is_new = connect(url, create)
    try:
        if file is None and engine.dialect.name == "postgresql" and revision_of(engine):
            _check_newest(engine, url)
        upgrade(engine)
        if file is not None:
            use_write_ahead_log(engine)
    except WrongUse:
        raise
    except Exception as error:  # a damaged database can make alembic raise any exception
        engine.dispose()
        if file is not None and is_new:
            _remove_if_empty(file, error)
        raise unusable(url, reason_of(error)) from None
    return engine


def connect(url: str, create: bool) -> tuple[Engine, Path | None, bool]:
    """The engine of a database, its file if it is one, and whether that is still to be made.

    Raises :class:`WrongUse` for a wrong URL; nothing is opened yet.
    """
    parsed = _parse(url)
    file = file_of(parsed)
    is_new = file is not None and not file.exists()
    if is_new and not create:
        raise unusable(
            url, "there is no such file: give the database or the work folder of a search"
        )
    if file is not None:
        _check_place(url, file)
    return _create_engine(url, parsed), file, is_new


def unusable(url: str, reason: str) -> WrongUse:
    """The error that says why the database of this URL cannot be used."""
    return WrongUse(f"can't use '{hide_password(url)}': {reason}", setting="storage")


def reason_of(error: Exception) -> str:
    """The database's own message, in one line."""
    if isinstance(error, CommandError):  # alembic does not know the revision of the database
        return (
            "this version of detkds does not know its schema, a newer version may have written "
            "it: update detkds or give another database"
        )
    text = str(getattr(error, "orig", None) or error).strip()
    if isinstance(error, SQLAlchemyError | sqlite3.Error) and text:
        return text.splitlines()[0]
    return f"it is damaged ({' '.join([type(error).__name__, *text.splitlines()[:1]])})"


# The URL


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL; None for a database in memory and for SQLite's ``file:`` URIs."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return None if url.database.startswith("file:") else Path(url.database)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the message of the error may show part of the password
        raise unusable(
            url,
            "it is not a database URL: write it as sqlite:///folder/detkds.db or "
            "postgresql+psycopg://user:password@host/database",
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise unusable(
            url, f"'{parsed.drivername}' is not supported: use sqlite or postgresql+psycopg"
        )
    if "@" in (parsed.host or ""):  # the password holds an @, and the host holds its end
        raise unusable(url, "an @ in the user's name or password is written %40")
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        raise unusable(
            url, "write sqlite:/// before a relative path and sqlite://// before an absolute path"
        )
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


def _check_place(url: str, file: Path) -> None:
    if not file.parent.is_dir():
        raise unusable(url, f"the folder {file.parent} does not exist: make it first")
    if file.is_dir():
        raise unusable(url, f"{file} is a folder: name a file in it")


# Connections


def _create_engine(url: str, parsed: URL) -> Engine:
    try:
        if parsed.get_backend_name() == "sqlite":
            return create_sqlite_engine(parsed)
        return _create_postgresql_engine(parsed)
    except ValueError as error:  # a wrong option after the question mark
        raise unusable(url, str(error)) from None


def _create_postgresql_engine(url: URL) -> Engine:
    settings: dict[str, Any] = {
        name: value for name, value in _POSTGRESQL_SETTINGS.items() if name not in url.query
    }
    password_file = url.query.get("password_file")
    if isinstance(password_file, str):
        url = url.difference_update_query(["password_file"])
        url = url.set(password=_read_password(password_file))
    # PgBouncer may give each transaction another connection, which knows no prepared statement.
    settings["prepare_threshold"] = None
    # Hours may pass between two trials, and the server may drop the connection meanwhile.
    engine = create_engine(url, connect_args=settings, pool_pre_ping=True)
    event.listen(engine, "begin", _limit_lock_waits)
    return engine


def _read_password(file: str) -> str:
    """The password in a file, such as a container's secret. Raises ValueError if there is none."""
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"can't read password_file={file}: {reason}") from None


def _limit_lock_waits(connection: Connection) -> None:
    """Let a statement that waits for another client's lock fail, so that it is said and retried."""
    # SET LOCAL ends with the transaction: PgBouncer keeps no settings of a session.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'")


def create_sqlite_engine(url: URL) -> Engine:
    """An engine whose connections check foreign keys and whose transactions wait for locks."""
    engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: Connection) -> None:
    # Python's sqlite3 begins a transaction only before it changes rows, not before it changes the
    # schema. SQLite does not wait when a transaction reads first and writes later: the write fails
    # at once if another process has written in between. So a transaction that writes takes the
    # write lock at its start, and SQLite waits for the lock.
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")


def use_write_ahead_log(engine: Engine) -> None:
    """Set SQLite's journal mode, which the file keeps and no transaction can set.

    SQLite waits for other processes before it writes, but not before it sets the journal mode.
    Several processes may open a new database at once, so this function tries again.
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


def _remove_if_empty(file: Path, error: Exception) -> None:
    """Remove the file of 0 bytes that a failed set-up leaves, unless another process uses it."""
    if "locked" not in str(error) and file.exists() and file.stat().st_size == 0:
        file.unlink()


# The schema


def configuration(connection: Connection, folder: Path = MIGRATIONS) -> Config:
    """Alembic's configuration for an open connection. There is no ``alembic.ini``."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = Base.metadata
    return config


def upgrade(engine: Engine) -> None:
    """Upgrade the schema to the newest revision, in one transaction.

    One process at a time upgrades a database; the others wait. Raises alembic's ``CommandError``
    when the database is at a revision that this version does not know.
    """
    with engine.execution_options(**READING).connect() as connection:
        if _is_newest(connection):
            return
    with engine.connect() as connection, _unchecked(connection), connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        command.upgrade(configuration(connection), "head")


def revision_of(engine: Engine) -> str | None:
    """The revision of a database's schema; None: it has none yet."""
    with engine.execution_options(**READING).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision(connection: Connection) -> str | None:
    """The revision that this version of detkds reads and writes."""
    return ScriptDirectory.from_config(configuration(connection)).get_current_head()


def _check_newest(engine: Engine, url: str) -> None:
    """Raise :class:`WrongUse` for an earlier schema, alembic's ``CommandError`` for a newer one."""
    with engine.execution_options(**READING).connect() as connection:
        if _is_newest(connection):
            return
        script = ScriptDirectory.from_config(configuration(connection))
        script.get_revision(revision_of(engine) or "base")
    engine.dispose()
    raise unusable(
        url,
        "its schema is of an earlier version of detkds, which others may still run: `detkds db "
        "backup`, then `detkds db upgrade`, both with this --storage, bring it up to date",
    )


def _is_newest(connection: Connection) -> bool:
    return MigrationContext.configure(connection).get_current_revision() == newest_revision(
        connection
    )


@contextmanager
def _unchecked(connection: Connection) -> Iterator[None]:
    """Switch SQLite's check of foreign keys off for the transaction that begins inside.

    A revision changes a SQLite table by copying and dropping it. SQLite refuses to drop a table
    while rows refer to its rows, and ignores this setting inside a transaction.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    database: Any = connection.connection.driver_connection
    database.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        database.execute("PRAGMA foreign_keys = ON")
