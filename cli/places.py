"""Where a command reads and writes: its folder, its database, its display."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..search.api import make_work_folder, storage_url, work_folder
from ..space import WrongUse
from ..space.errors import hide_password

if TYPE_CHECKING:
    from ..db import Store
    from .display import SearchDisplay


class OpenSearch(NamedTuple):
    """A search in an opened database, and its work folder."""

    store: Store
    name: str
    folder: Path


#: The commands that go on when they are given again after an interruption.
LONG = (["search"], ["train"], ["teachers"])


def open_store(
    storage: str | None, folder: Path, create: bool = False, patience: float | None = None
) -> Store:
    """Open the database of ``--storage``, by default ``detkds.db`` in the work folder.

    ``create``: make the work folder and the database if they do not exist. ``patience``: seconds
    that the store waits for a database that does not answer.
    """
    from ..db import Store

    if storage is None and create:
        make_work_folder(folder)
    return Store(storage_url(storage, folder), create, patience)


def databases(storage: str | None, work_dir: Path | None, name: str | None = None) -> list[str]:
    """The URLs of a command's databases; without any of the three, those of all folders in runs/.

    Raises :class:`WrongUse` if there is none in runs/.
    """
    folder = work_folder(work_dir, name)
    if storage is not None or work_dir is not None or name is not None:
        return [storage_url(storage, folder)]
    folders = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    found = [storage_url(None, one) for one in folders if (one / "detkds.db").is_file()]
    if not found:
        raise WrongUse(
            f"no database in {folder.absolute()} or in a folder of it: name a search, or give "
            "--work-dir or --storage"
        )
    return found


def stores(storage: str | None, work_dir: Path | None, name: str | None) -> Iterator[Store]:
    """The databases of :func:`databases`, opened in turn."""
    from ..db import Store

    for url in databases(storage, work_dir, name):
        with Store(url, create=False) as store:
            yield store


@contextmanager
def store_of(storage: str | None, work_dir: Path | None, name: str | None) -> Iterator[OpenSearch]:
    """The opened database of a command about one search, and the search's name.

    Without a name, it is that of the only search in the database of ``work_dir`` or ``storage``.
    Raises :class:`WrongUse` if there are several, or none.
    """
    if name is None and work_dir is None and storage is None:
        raise WrongUse("give a search's name, or the --work-dir of its files")
    folder = work_folder(work_dir, name)
    with open_store(storage, folder) as store:
        names = [search.name for search in store.searches()]
        if name is None and len(names) != 1:
            there = f"searches: {', '.join(names)}: name one" if names else "no search"
            raise WrongUse(f"{store.url} holds {there}")
        row = store.search(names[0] if name is None else name)
        yield OpenSearch(store, row.name, folder)


def say_loading() -> None:
    """Tell a person at a terminal what the next seconds go into."""
    if "torch" not in sys.modules and sys.stderr.isatty():
        print("loading torch and mmdet, checking the config …", file=sys.stderr, flush=True)


def make_display() -> SearchDisplay:
    """The display of a long command, which says how to go on when it is interrupted.

    Only a search that the store knows goes on with ``--resume``.
    """
    from .display import SearchDisplay

    arguments = sys.argv[1:]
    begun = list(arguments)
    if arguments[:1] == ["search"] and "--resume" not in arguments:
        begun.append("--resume")
    return SearchDisplay(shown_command(begun), before=shown_command(arguments))


def shown_command(arguments: list[str]) -> str:
    """A command as the user would type it, without its password."""
    return shlex.join(["detkds", *map(hide_password, arguments)])


def check_writable(option: str, file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise WrongUse(f"{option} {file}: its folder does not exist; make it first")
    if file.is_dir():
        raise WrongUse(f"{option} {file}: it is a folder; name a file in it")


def options_of_place(storage: str | None, work_dir: Path | None) -> str:
    """The options that lead another command to the same store, without a password."""
    options = {"--storage": storage and hide_password(storage), "--work-dir": work_dir}
    given = [str(part) for item in options.items() if item[1] for part in item]
    return f" {shlex.join(given)}" if given else ""
