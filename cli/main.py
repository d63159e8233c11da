"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import os
import sys

import typer

from ..space import SearchFailed, WrongUse
from . import commands, runs  # noqa: F401 (they register the commands)
from .app import app
from .options import naming, options_of


def main() -> None:
    """Run the command; a wrong use is one line and exit code 2, a failure one line and 1."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    arguments = sys.argv[1:]
    try:
        with naming(options_of(arguments)):
            # typer turns Ctrl-C into an exit code of 130 and returns the code.
            sys.exit(app(_spread_options(arguments), standalone_mode=False) or 0)
    except WrongUse as error:
        _end(f"detkds: {error}", 2)
    except SearchFailed as error:
        _end(f"detkds: {error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _end("", 130)
    except Exception as error:
        # click's usage errors, whose class typer imports from click or keeps a copy of.
        if not hasattr(error, "format_message"):
            raise
        _end(f"detkds: {' '.join(error.format_message().split())} (see --help)", 2)


def _spread_options(arguments: list[str]) -> list[str]:
    """Repeat ``--cfg-options`` before each of its values, for a parser that takes one value each.

    mmdet's scripts take ``--cfg-options a=1 b=2``.
    """
    spread: list[str] = []
    listing = False
    for argument in arguments:
        if argument.startswith("-"):
            listing = argument == "--cfg-options"
        elif listing and "=" in argument and spread[-1] != "--cfg-options":
            spread.append("--cfg-options")
        spread.append(argument)
    return spread


def _end(message: str, code: int) -> None:
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)
