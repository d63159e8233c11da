"""Errors that are one line to the user, and the nearest right name for a wrong one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class WrongUse(ValueError):
    """A wrong use, in one line: what is wrong and what would be right.

    ``setting`` names what the user set, as a path in the config (``proxy.train_images``) or as one
    of the names that are in no config (``storage``, ``work_dir``, ``name``); the line begins with
    the setting. A command that has an option for the setting shows the option in its place. The
    command line prints the line and exits with code 2; nothing has been started by then.
    """

    def __init__(self, message: str, setting: str | None = None) -> None:
        self.message, self.setting = " ".join(str(message).split()), setting
        super().__init__(self.message if setting is None else f"{setting}: {self.message}")

    def __reduce__(self) -> tuple:
        return WrongUse, (self.message, self.setting)


class SearchFailed(RuntimeError):
    """The search or a training could not go on; the message says why, in one line."""


def nearest(name: object, choices: Iterable[str]) -> str:
    """The end of an error sentence: the nearest right name, or all of them if none is near.

    >>> nearest("pearsen", ["l1", "pearson"])
    'did you mean pearson?'
    >>> nearest("Adamw", ["Adam", "AdamW"])
    'did you mean AdamW?'
    """
    options = {option.lower(): option for option in choices}
    if not options:
        return "there is none"
    close = difflib.get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {options[close[0]]}?"
    return f"choose one of {', '.join(options.values())}"


def hide_password(url: str) -> str:
    """The URL with ``***`` for the password. The URL may be malformed.

    >>> hide_password("postgresql+psycopg://me:s3cret@host/trials")
    'postgresql+psycopg://me:***@host/trials'
    """
    without_login = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without_login)


def shown(text: str) -> str:
    """A text as a terminal may show it: what would move the cursor or hide a part is escaped.

    >>> shown("pkd\\x1b[2J")
    'pkd\\\\x1b[2J'
    """
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def check_name(name: str, setting: str) -> None:
    """Raise :class:`WrongUse` for a name that is no plain name of a file or folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise WrongUse(
            f"{name!r}: a name is no path, and has only characters that can be printed; the work "
            "folder says where files go",
            setting,
        )
