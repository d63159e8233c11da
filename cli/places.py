"""Where a command reads and writes: its folder, its database, its display."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..space import WrongUse

if TYPE_CHECKING:
    from ..db import Store
    from .display import SearchDisplay


def work_folder(work_dir: Path | None, name: str | None) -> Path:
    return work_dir or Path("runs") / Path(name or "").name


def open_store(storage: str | None, folder: Path, create: bool = False) -> Store:
    """Open the database of ``--storage``, by default ``detkds.db`` in the work folder.

    ``create``: make the work folder and the database if they do not exist.
    """
    from ..db import Store

    if storage is None and create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongUse(f"--work-dir {folder}: can't make it: {error.strerror}") from None
    return Store(storage or f"sqlite:///{folder / 'detkds.db'}", create=create)


def make_display() -> SearchDisplay:
    from .display import SearchDisplay

    return SearchDisplay(_continue_command())


def _continue_command() -> str:
    """The command that continues this command, without its password."""
    from ..db import hide_password

    arguments = sys.argv[1:]
    if arguments[:1] == ["search"] and "--resume" not in arguments:
        arguments.append("--resume")
    return shlex.join(["detkds", *map(hide_password, arguments)])


def check_writable(option: str, file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise WrongUse(f"{option} {file}: its folder does not exist; make it first")
    if file.is_dir():
        raise WrongUse(f"{option} {file}: it is a folder; name a file in it")
