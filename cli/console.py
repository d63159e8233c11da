"""The console that every command prints its tables and its progress to."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ..space.errors import shown


class _PlainConsole(Console):
    """Shows texts from files and databases as they are: no markup, no escape sequences."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


# A file or a pipe has no width of its own, and a log is easier to read with unfolded tables.
_WIDTH = None if Console().is_terminal else 140
console = _PlainConsole(markup=False, emoji=False, width=_WIDTH)


def in_one_line(notation: object) -> str:
    """A distiller in arrow notation, its terms separated by ``;``."""
    return str(notation).replace("\n", "; ")
