"""Transactions that wait for a database that does not answer."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from .database import READING, reason_of, unusable

#: A transaction is tried again for this many seconds.
RETRY_SECONDS = 600.0
#: Seconds between two tries: the pause doubles from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

Result = TypeVar("Result")


class Transactions:
    """Calls functions, each in a database transaction of its own.

    When the connection is lost or the database is locked, the transaction is rolled back and the
    function is called again in a new transaction, for up to :data:`RETRY_SECONDS`; after that,
    :class:`WrongUse` is raised. Any other error is raised at once.
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self._url = url
        self._writing = sessionmaker(engine)
        self._reading = sessionmaker(engine.execution_options(**READING))

    def read(self, function: Callable[[Session], Result]) -> Result:
        """Return ``function(session)``, which only reads."""
        return self._run(self._reading, lambda session, _: function(session))

    def write(self, function: Callable[[Session], Result]) -> Result:
        """Commit the changes of ``function(session)`` and return its result.

        The connection may be lost after a commit and before the answer to the commit. Then
        ``function`` is called again although its changes are in the database; writing the same
        changes twice must do no harm. Otherwise use :meth:`write_once`.
        """
        return self._run(self._writing, lambda session, _: function(session))

    def write_once(self, function: Callable[[Session, bool], Result]) -> Result:
        """Commit the changes of ``function(session, repeated)`` and return its result.

        ``repeated`` is True in every try but the first: the changes may be in the database already
        (see :meth:`write`), and ``function`` has to look for them before it writes.
        """
        return self._run(self._writing, function)

    def _run(
        self, sessions: sessionmaker[Session], function: Callable[[Session, bool], Result]
    ) -> Result:
        deadline, pause, repeated = None, FIRST_PAUSE, False
        while True:
            try:
                with sessions.begin() as session:
                    return function(session, repeated)
            except DBAPIError as error:
                if not _is_temporary(error):
                    raise
                reason = reason_of(error)
                if deadline is None:
                    deadline = time.monotonic() + RETRY_SECONDS
                    _print(f"{self._url} does not answer ({reason})")
                elif time.monotonic() > deadline:
                    silence = f"no answer for {RETRY_SECONDS / 60:.0f} minutes ({reason})"
                    raise unusable(self._url, silence) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            repeated = True


def _is_temporary(error: DBAPIError) -> bool:
    """Whether the error is a lost connection or a lock."""
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig)
    return error.connection_invalidated or isinstance(error, OperationalError)


def _print(text: str) -> None:
    minutes = f"{RETRY_SECONDS / 60:.0f} minutes"
    print(f"detkds: {text}: trying for {minutes}", file=sys.stderr, flush=True)
