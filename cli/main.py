"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use, 128 + a signal that ended it."""

from __future__ import annotations

import os
import sys

import typer

from ..space import SearchFailed, WrongUse
from ..space.errors import shown
from . import commands, databases, logs, reports, runs  # noqa: F401 (they register the commands)
from .app import app
from .interrupts import Interrupts, ended_by_signals, flush_output
from .options import naming, options_of
from .passwords import hide_passwords
from .places import LONG, shown_command

#: mmcv-lite is no requirement: it would overwrite a compiled mmcv.
NO_MMCV = (
    "mmcv is not installed: `pip install 'mmcv-lite>=2.1,<2.2'` is enough, and so is a compiled "
    "mmcv of this version"
)


def main() -> None:
    """Run the command; a wrong use is one line and exit code 2, a failure one line and 1.

    SIGTERM and SIGHUP are what Ctrl-C is: one line that says how to go on, and the exit code that
    shells give (143, 129 and 130).
    """
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    hide_passwords()
    arguments = sys.argv[1:]
    again = shown_command(arguments) if arguments[:1] in LONG else ""
    with ended_by_signals(again) as interrupts:
        code = _run(arguments, interrupts)
        if interrupts.number is not None and code:
            interrupts.tell(again, lambda text: print(text, file=sys.stderr))
            code = interrupts.exit_code
        flush_output()
    sys.exit(code)


def _run(arguments: list[str], interrupts: Interrupts) -> int:
    """Run the command and return its exit code."""
    try:
        with naming(options_of(arguments)):
            # typer turns Ctrl-C into an exit code of 130 and returns the code.
            return app(_spread_options(arguments), standalone_mode=False) or 0
    except WrongUse as error:
        message, code = str(error), 2
    except SearchFailed as error:
        message, code = str(error), 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except ModuleNotFoundError as error:
        if error.name != "mmcv":
            raise
        message, code = NO_MMCV, 2
    except Exception as error:
        # After a signal, libraries raise whatever they meet on their way out.
        if interrupts.number is not None:
            return 1
        # click's usage errors, whose class typer imports from click or keeps a copy of.
        if not hasattr(error, "format_message"):
            raise
        message, code = f"{' '.join(error.format_message().split())} (see --help)", 2
    if interrupts.number is None:
        print(shown(f"detkds: {message}"), file=sys.stderr)
    return code


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
