"""A database's password in the command line: moved to where other users don't see it."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote

_LOGIN = re.compile(r"(?P<before>postgres\w*(?:\+\w+)?://[^:/@]*):(?P<password>.*)(?P<after>@.*)")
_OPTION = re.compile(r"(?P<before>postgres.*[?&])password=(?P<password>[^&]*)&?(?P<after>.*)")


def hide_passwords() -> None:
    """Start the command again without a password in its line, which ``ps`` shows to everybody.

    Ray copies the line into its table of jobs. The password goes into PGPASSWORD, which only the
    user's own processes see.
    """
    line = sys.orig_argv
    found = [without_password(argument) for argument in line]
    passwords = [password for _, password in found if password is not None]
    own = sys.argv[1:]
    if not passwords or line[len(line) - len(own) :] != own:
        return
    os.environ["PGPASSWORD"] = passwords[-1]
    os.execv(sys.executable, [line[0], *(argument for argument, _ in found[1:])])


def without_password(argument: str) -> tuple[str, str | None]:
    """An argument without the password of a PostgreSQL URL, and the password.

    >>> without_password("--storage=postgresql://me:s3%40cret@host/trials")
    ('--storage=postgresql://me@host/trials', 's3@cret')
    """
    for form in (_LOGIN, _OPTION):
        match = form.search(argument)
        if match is not None:
            start = argument[: match.start()]
            rest = f"{start}{match['before']}{match['after']}".rstrip("?&")
            return rest, unquote(match["password"])
    return argument, None
