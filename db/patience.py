"""A store whose database does not answer for a while waits for it instead of failing."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from .engine import reason_of, unusable

#: For so long a database may be away, in seconds, and so long it is left alone between two tries.
PATIENCE = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

Store = TypeVar("Store")


def patient(store: type[Store]) -> type[Store]:
    """A class decorator: every public method, one transaction, is tried again until it is through.

    Only lost connections and locks pass with time; other errors are raised at once. Raises
    :class:`WrongUse` when the database has not answered for :data:`PATIENCE` seconds.
    """
    for name, method in list(vars(store).items()):
        if isfunction(method) and not name.startswith("_"):
            setattr(store, name, _patient(method))
    return store


def _patient(method: Callable) -> Callable:
    @wraps(method)
    def trying(self: Any, *arguments: Any, **options: Any) -> Any:
        deadline, pause = None, FIRST_PAUSE
        while True:
            try:
                return method(self, *arguments, **options)
            except DBAPIError as error:
                if not _passes(error):
                    raise
                if deadline is None:
                    deadline = time.monotonic() + PATIENCE
                    _say(f"{self.url} does not answer ({reason_of(error)})")
                elif time.monotonic() > deadline:
                    silence = f"no answer for {PATIENCE / 60:.0f} minutes ({reason_of(error)})"
                    raise unusable(self.url, silence) from None
            finally:
                self.repeats = False
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.repeats = True

    return trying


def _passes(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig)
    return error.connection_invalidated or isinstance(error, OperationalError)


def _say(text: str) -> None:
    print(f"detkds: {text}: trying for {PATIENCE / 60:.0f} minutes", file=sys.stderr, flush=True)
