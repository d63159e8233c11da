"""Errors that are one line to the user, and the nearest right name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WrongUse(ValueError):
    """A wrong use: one line that names the file or option, what is wrong and what would be right.

    The command line prints it and exits with code 2; nothing has been started by then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class SearchFailed(RuntimeError):
    """The search or a training could not go on; the message says why, in one line."""


def nearest(name: object, choices: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, or all of them if none is near.

    >>> nearest("pearsen", ["l1", "pearson"])
    'did you mean pearson?'
    """
    options = list(choices)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(options)}"
