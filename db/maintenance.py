"""What an owner does with a database: look whether it is whole, copy it, upgrade its schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import Connection, Engine, MetaData, func, make_url, select

from ..space import WrongUse
from ..space.writing import replacing
from .database import (
    READING,
    configuration,
    connect,
    create_sqlite_engine,
    newest_revision,
    reason_of,
    revision_of,
    unusable,
    upgrade,
)
from .lease import current_leases
from .store import Store

#: Rows that are copied at a time.
_ROWS = 1000


@dataclass(frozen=True)
class Checked:
    """What a database holds. ``faults`` are lines; ``held``: who runs which search now."""

    revision: str
    newest: str
    counts: dict[str, int]
    held: list[str]
    faults: list[str]


@contextmanager
def _existing(url: str) -> Iterator[tuple[Engine, str]]:
    """The engine of a database that was set up, and the revision of its schema."""
    engine, _, _ = connect(url, create=False)
    try:
        revision = revision_of(engine)
        if revision is None:
            raise unusable(url, "it holds no tables of detkds: give the database of a search")
        yield engine, revision
    except WrongUse:
        raise
    except Exception as error:  # a damaged database can make alembic raise any exception
        raise unusable(url, reason_of(error)) from None
    finally:
        engine.dispose()


def upgrade_database(url: str) -> tuple[str, str]:
    """Upgrade the schema; returns the revisions before and after.

    Raises :class:`WrongUse` if a search is running there, or if the schema is a newer version's.
    """
    with _existing(url) as (engine, before):
        held = current_leases(engine)
        if held:
            raise WrongUse(f"{'; '.join(held)}: let it finish or stop it", "storage")
        upgrade(engine)
        return before, revision_of(engine) or before


def backup(url: str, out: Path) -> dict[str, int]:
    """Copy a database, as it is at one moment, into a new SQLite file; returns rows by table.

    The copy has the schema of the original, and ``sqlite:///FILE`` opens it.
    """
    with _existing(url) as (engine, revision), replacing(out) as temporary:
        temporary.unlink()
        copy = create_sqlite_engine(make_url(f"sqlite+pysqlite:///{temporary}"))
        try:
            with copy.begin() as target:
                command.upgrade(configuration(target), revision)
            counts = _copy_rows(engine, copy)
        finally:
            copy.dispose()
        return counts


def _copy_rows(engine: Engine, copy: Engine) -> dict[str, int]:
    schema = MetaData()
    schema.reflect(copy)
    options: dict[str, Any] = {"sqlite_begin": "DEFERRED"}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ"}
    counts = {}
    with engine.execution_options(**options).connect() as source, copy.connect() as target:
        target.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
        with target.begin():
            for table in schema.sorted_tables:
                if table.name == "alembic_version":
                    continue
                counts[table.name] = 0
                found = source.execute(select(table), execution_options={"stream_results": True})
                for rows in found.mappings().partitions(_ROWS):
                    target.execute(table.insert(), [_in_utc(row) for row in rows])
                    counts[table.name] += len(rows)
    return counts


def _in_utc(row: Any) -> dict[str, Any]:
    """A row with its times in UTC: PostgreSQL gives them in the zone of the connection."""
    return {
        name: value.astimezone(timezone.utc)
        if isinstance(value, datetime) and value.tzinfo
        else value
        for name, value in row.items()
    }


def _reading(engine: Engine) -> Connection:
    return engine.execution_options(**READING).connect()


def check(url: str) -> Checked:
    """Read every row of a database. Nothing is changed."""
    with _existing(url) as (engine, revision), _reading(engine) as connection:
        held = current_leases(engine)
        newest = newest_revision(connection) or ""
        schema = MetaData()
        schema.reflect(connection)
        counts = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in schema.sorted_tables
            if table.name != "alembic_version"
        }
        faults = []
        if engine.dialect.name == "sqlite":
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            faults += [line for line in found if line != "ok"]
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
                faults.append(f"row {row} of {table} refers to a row of {parent} that is not there")
    if revision == newest:
        faults += _unreadable(url)
    return Checked(revision, newest, counts, held, faults)


def _unreadable(url: str) -> list[str]:
    """What can't be read of the rows of a database of the newest schema."""
    faults = []
    with Store(url, create=False) as store:
        for read in (store.searches, lambda: store.trials(None), store.trainings):
            try:
                read()
            except (WrongUse, ValueError, LookupError) as error:
                faults.append(" ".join(str(error).split()))
    return faults
