"""Files written whole or not at all, and JSON files read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import WrongUse

PathLike = str | os.PathLike[str]


@contextmanager
def replacing(path: PathLike, *, one_writer: bool = False, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path``, which replaces ``path`` when the block ends.

    The block writes to the temporary file. If the block raises, the temporary file is deleted and
    ``path`` stays as it was. ``one_writer``: no other process writes to ``path`` at the same time.
    The temporary file then has the same name every time, so that killed processes leave no more
    than one of them. ``durable``: the content is on the disk before ``path`` is replaced, and the
    new name when the block has ended; otherwise a crash of the machine may leave an empty file.
    """
    target = Path(path)
    if one_writer:
        temporary = target.with_name(f".{target.name}.tmp")
    else:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        os.chmod(name, 0o644)
        temporary = Path(name)
    try:
        yield temporary
        if durable:
            _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
        if durable:
            with suppress(OSError):  # Windows opens no folder, and some file systems flush none
                _flush(target.parent, os.O_RDONLY)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path, mode: int) -> None:
    """Wait until a file or a folder is on the disk."""
    opened = os.open(path, mode)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def replace_file(
    path: PathLike, text: str, *, one_writer: bool = False, durable: bool = True
) -> None:
    """Write ``text`` to a file, whole or not at all (see :func:`replacing`)."""
    with replacing(path, one_writer=one_writer, durable=durable) as temporary:
        temporary.write_text(text, "utf-8")


def read_json(path: PathLike, what: str, advice: str, setting: str | None = None) -> Any:
    """The content of a JSON file.

    Raises :class:`WrongUse` naming the file if it can't be read or is cut off. ``what`` names the
    kind of file in the error ("the distiller file"), ``advice`` says what would be right, and
    ``setting`` is the setting that names the file.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise WrongUse(f"{path}: can't read {what}: {reason}; {advice}", setting) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.pos} of {len(text)}"
        raise WrongUse(
            f"{path}: not a whole JSON document ({place}: {error.msg}); {advice}"
        ) from None
    except RecursionError:
        raise WrongUse(f"{path}: its JSON is nested too deep; {advice}", setting) from None


def find_json(path: PathLike) -> Any:
    """The content of a JSON file, or None if no whole JSON file is there."""
    try:
        return read_json(path, "the file", "")
    except WrongUse:
        return None
