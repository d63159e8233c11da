"""What of a search's files may be deleted: for ``detkds clean`` and ``detkds delete``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..db import SearchRow, Store
from ..space import Status
from ..workers.leftovers import FREED, LEFTOVERS, RUNNING, SHOWN, TEMPORARY, TRACES

#: The process that made a temporary folder.
_PROCESS = re.compile(re.escape(TEMPORARY) + r"\w+-(\d+)-")


@dataclass(frozen=True)
class Waste:
    """A file or folder that may be deleted: its size in bytes, and what it is or was."""

    path: Path
    size: int
    why: str
    #: Whether the file is a student, in whose place a note is left that it was trained.
    student: bool = False

    def delete(self) -> None:
        """Delete it. What is gone already is no error."""
        if self.student:
            self.path.with_name(self.path.name + FREED).touch()
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def waste_of(store: Store, search: SearchRow) -> list[Waste]:
    """What may be deleted of a search that nobody runs.

    That is what trainings that are done have left of their way; the students of the confirmation of
    a search that is finished, whose scores are in the store; and the temporary folders of processes
    that have ended, on this machine.
    """
    found = []
    for row in store.trainings(search.id):
        if row.status is not Status.COMPLETED or row.checkpoint is None:
            continue
        student = Path(row.checkpoint)
        for pattern in LEFTOVERS:
            for path in sorted(student.parent.glob(pattern)):
                found.append(Waste(path, _size(path), f"{row.name} is trained"))
        if search.finished is not None and row.split == "proxy" and student.is_file():
            why = f"of the confirmation of {row.name}, whose score is in the store"
            found.append(Waste(student, _size(student), why, student=True))
    found += [Waste(path, _size(path), "its process has ended") for path in _abandoned()]
    return found


#: What a search's own files are, by the ends of their names.
_FILES = {
    "json": "its distiller",
    "html": "its report",
    "search.py": "its config",
    "detections.json": "what its detectors find",
}


@dataclass(frozen=True)
class Belongings:
    """The files and folders of a search alone; in a line each, what it shares and so stays."""

    own: list[Waste]
    shared: list[str]

    def delete(self) -> None:
        """Delete what is the search's own, and a folder that then has nothing more in it."""
        for one in self.own:
            one.delete()
            with suppress(OSError):
                one.path.parent.rmdir()


def belongings_of(store: Store, search: SearchRow, folder: Path) -> Belongings:
    """What a search has left in its work folder, and the folders of its trainings wherever.

    A training's folder is shared if another search has the training, or ``detkds train``, which
    is no search's. The proxy, a synthetic set and the database are of the folder, not of the
    search.
    """
    own, shared = [], []
    for ending, what in _FILES.items():
        file = folder / f"{search.name}.{ending}"
        if file.is_file():
            own.append(Waste(file, _size(file), what))
    folders = {
        f"{RUNNING}{search.name}": "how far its trials were when it was killed",
        f"{search.name}{SHOWN}": "what its trials have shown to visualization backends",
    }
    for name, what in folders.items():
        if (folder / name).is_dir():
            own.append(Waste(folder / name, _size(folder / name), what))
    names: dict[int | None, str] = {one.id: f"the search '{one.name}'" for one in store.searches()}
    users: dict[Path, dict[int | None, str]] = {}
    for row in store.trainings():
        if row.checkpoint is not None:
            users.setdefault(Path(row.checkpoint).parent, {})[row.search_id] = row.name
    for path, of in users.items():
        if search.id not in of or not _is_training(path):
            continue
        others = [names.get(one, "detkds train") for one in of if one != search.id]
        if others:
            shared.append(f"{path}: {' and '.join(others)} used it, too")
        else:
            own.append(Waste(path, _size(path), f"the training {of[search.id]}"))
    return Belongings(own, shared)


def _is_training(folder: Path) -> bool:
    """Whether a training has written the folder: a database may be older than what is there."""
    return any((folder / name).is_file() for name in TRACES)


def _abandoned() -> Iterator[Path]:
    """This user's temporary folders on this machine whose process has ended."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*")):
        process = _PROCESS.match(path.name)
        if process and path.stat().st_uid == os.getuid() and not _lives(int(process[1])):
            yield path


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
