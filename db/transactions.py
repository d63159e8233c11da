"""Transactions that wait for a database that does not answer."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from ..space import SearchFailed, WrongUse
from .database import READING, reason_of, unusable

#: By default, a transaction is tried again for this many seconds; see ``resources.patience``.
PATIENCE_SECONDS = 600.0
#: Seconds between two tries: the pause doubles from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: PostgreSQL's code of a write to a server that is a standby, as after a failover.
_READ_ONLY = "25006"
#: What SQLite says of a lock that another client holds, of a full disk and of a file system that
#: is away or read-only for a while.
_TEMPORARY = ("locked", "is full", "disk I/O error", "readonly database", "unable to open database")

Result = TypeVar("Result")


class Transactions:
    """Calls functions, each in a database transaction of its own.

    When the connection is lost, the database is locked or read-only, or its disk is full, the
    transaction is rolled back and the function is called again in a new transaction, for up to
    ``patience`` seconds; after that, :class:`SearchFailed` is raised. The first try says that it
    waits, and why. Any other error of the database is :class:`WrongUse` at once, but for
    SQLAlchemy's ``IntegrityError``, which callers expect.

    ``guard``, if there is one, is called first in each transaction that writes. ``doing`` is what
    the holder of a lease does now, for its next heartbeat.
    """

    def __init__(self, engine: Engine, url: str, patience: float | None = None) -> None:
        self._url = url
        self._patience = patience
        self._writing = sessionmaker(engine)
        self._reading = sessionmaker(engine.execution_options(**READING))
        self.guard: Callable[[Session], Any] | None = None
        self.doing: dict[str, Any] | None = None
        self._inside = False
        self._after: Exception | None = None

    def read(self, function: Callable[[Session], Result]) -> Result:
        """Return ``function(session)``, which only reads.

        Raises :class:`WrongUse` for rows that no version of detkds has written.
        """
        with self.telling_what_is_broken():
            return self._run(self._reading, lambda session, _: function(session))

    def write(self, function: Callable[[Session], Result]) -> Result:
        """Commit the changes of ``function(session)`` and return its result.

        The connection may be lost after a commit and before the answer to the commit. Then
        ``function`` is called again although its changes are in the database; writing the same
        changes twice must do no harm. Otherwise use :meth:`write_once`.
        """
        return self.write_once(lambda session, _: function(session))

    def write_once(self, function: Callable[[Session, bool], Result]) -> Result:
        """Commit the changes of ``function(session, repeated)`` and return its result.

        ``repeated`` is True in every try but the first: the changes may be in the database already
        (see :meth:`write`), and ``function`` has to look for them before it writes.
        """

        def guarded(session: Session, repeated: bool) -> Result:
            if self.guard is not None:
                self.guard(session)
            return function(session, repeated)

        return self._run(self._writing, guarded)

    def once(self, function: Callable[[Session], Result]) -> Result:
        """Commit the changes of ``function(session)`` in one try, without the guard."""
        with self._writing.begin() as session:
            return function(session)

    def interrupt(self, error: Exception) -> None:
        """Raise an error in the main thread, which a signal calls this in: now, or after a
        transaction that the signal has met.

        Within a transaction, the error would leave a connection that waits for its answer, and the
        next transaction would get it.
        """
        if not self._inside:
            raise error
        self._after = error

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A block of the main thread in which :meth:`interrupt` raises nothing until it ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            if self._after is not None:
                error, self._after = self._after, None
                raise error

    @contextmanager
    def telling_what_is_broken(self) -> Iterator[None]:
        """Turn what reading a damaged row raises into :class:`WrongUse`."""
        try:
            yield
        except WrongUse:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            reason = f"a row can't be read ({type(error).__name__}: {error}): see `detkds db check`"
            raise unusable(self._url, reason) from None

    def _run(
        self, sessions: sessionmaker[Session], function: Callable[[Session, bool], Result]
    ) -> Result:
        patience = PATIENCE_SECONDS if self._patience is None else self._patience
        deadline, pause, repeated = None, FIRST_PAUSE, False
        while True:
            try:
                with self._undisturbed(), sessions.begin() as session:
                    return function(session, repeated)
            except DBAPIError as error:
                if isinstance(error, IntegrityError):
                    raise
                reason = reason_of(error)
                if not _is_temporary(error):
                    raise unusable(self._url, reason) from None
                if deadline is None:
                    deadline = time.monotonic() + patience
                    say(f"{self._url}: {reason}: trying again for {_minutes(patience)}")
                elif time.monotonic() > deadline:
                    silence = f"no answer for {_minutes(patience)} ({reason})"
                    raise SearchFailed(str(unusable(self._url, silence))) from None
            except KeyboardInterrupt as error:
                # Its frames hold the cursor, and an open cursor SQLite's lock: the lease, which is
                # freed next, would wait for it.
                traceback.clear_frames(error.__traceback__)
                raise
            time.sleep(min(pause, max(deadline - time.monotonic(), FIRST_PAUSE)))
            pause = min(2 * pause, LONGEST_PAUSE)
            repeated = True


def _is_temporary(error: DBAPIError) -> bool:
    """Whether the database may take the same transaction a while later."""
    if isinstance(error.orig, sqlite3.Error):
        return any(text in str(error.orig) for text in _TEMPORARY)
    if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
        return True
    return error.connection_invalidated or isinstance(error, OperationalError)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def say(text: str) -> None:
    """Print a line of a process that waits. A log on a full disk ends no search."""
    with suppress(OSError):
        print(f"detkds: {text}", file=sys.stderr, flush=True)
