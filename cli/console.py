"""The console that every command prints its tables and its progress to."""

from __future__ import annotations

from rich.console import Console

# A file or a pipe has no width of its own, and a log is easier to read with unfolded tables.
console = Console() if Console().is_terminal else Console(width=140)


def in_one_line(notation: object) -> str:
    """A distiller in arrow notation, its terms separated by ``;``."""
    return str(notation).replace("\n", "; ")
