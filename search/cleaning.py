"""What of a search's files nobody needs any more, for ``detkds clean``."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..db import SearchRow, Store
from ..space import Status
from ..workers.leftovers import FREED, LEFTOVERS, TEMPORARY

#: The process that made a temporary folder.
_PROCESS = re.compile(re.escape(TEMPORARY) + r"\w+-(\d+)-")


@dataclass(frozen=True)
class Waste:
    """A file or folder that may be deleted: its size in bytes, and why nobody needs it."""

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
