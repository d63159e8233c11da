"""Opening a database: its URL, its settings, its schema; what goes wrong is told in one line."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from ..space import WrongUse
from .migrate import upgrade
from .sqlite import create_sqlite_engine, file_of, remove_if_empty, use_write_ahead_log

_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
#: A server that has gone without a word is noticed after a minute, not after the kernel's hours.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def open_database(url: str, create: bool = True) -> Engine:
    """Connect to a database and bring its schema up to date; ``create`` makes a new SQLite file.

    Raises :class:`WrongUse` naming ``--storage``, the URL and the reason; a SQLite file that could
    not be set up is not left behind.
    """
    parsed = _parse(url)
    file = file_of(parsed)
    is_new = file is not None and not file.exists()
    if is_new and not create:
        raise unusable(url, "there is no such file: give --storage or --work-dir of a search")
    if file is not None:
        _check_place(url, file)
    engine = _create_engine(url, parsed)
    try:
        upgrade(engine)
        if file is not None:
            use_write_ahead_log(engine)
    except (CommandError, DBAPIError, sqlite3.Error) as error:
        engine.dispose()
        if file is not None and is_new:
            remove_if_empty(file, error)
        raise unusable(url, reason_of(error)) from None
    return engine


def hide_password(url: str) -> str:
    """The URL fit to be shown, well-formed or not."""
    without_login = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without_login)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their text may show a piece of the password
        raise unusable(
            url,
            "it is not a database URL: write it as sqlite:///folder/detkds.db or "
            "postgresql+psycopg://user:password@host/database",
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise unusable(
            url, f"'{parsed.drivername}' is not supported: use sqlite or postgresql+psycopg"
        )
    if "@" in (parsed.host or ""):  # what stands there is the end of the password
        raise unusable(url, "an @ in the user's name or password is written %40")
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        raise unusable(
            url, "write sqlite:/// before a relative path and sqlite://// before an absolute one"
        )
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


def _check_place(url: str, file: Path) -> None:
    if not file.parent.is_dir():
        raise unusable(url, f"the folder {file.parent} does not exist: make it first")
    if file.is_dir():
        raise unusable(url, f"{file} is a folder: name a file in it")


def _create_engine(url: str, parsed: URL) -> Engine:
    try:
        if parsed.get_backend_name() == "sqlite":
            return create_sqlite_engine(parsed)
        return _create_postgresql_engine(parsed)
    except ValueError as error:  # an option after the question mark
        raise unusable(url, reason_of(error)) from None


def _create_postgresql_engine(url: URL) -> Engine:
    settings = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    # Between two trials lie minutes or hours: a connection may have been dropped meanwhile.
    return create_engine(url, connect_args=settings, pool_pre_ping=True)


def reason_of(error: Exception) -> str:
    """What the database says, in one line."""
    if isinstance(error, CommandError):  # alembic looked for the database's revision in vain
        return (
            "its schema is none that this version of detkds knows, a newer one may have written "
            "it: update detkds or give another database"
        )
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def unusable(url: str, reason: str) -> WrongUse:
    """The error that says why the database of this URL can't be used."""
    return WrongUse(f"--storage: can't use '{hide_password(url)}': {reason}")
