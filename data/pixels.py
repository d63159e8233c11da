"""A hash of a split's images that is quick enough for every start of a search."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from heapq import nsmallest
from pathlib import Path

from ..space import WrongUse
from ..space.writing import PathLike

#: So many images of a split are read whole.
SAMPLE = 1000


def pixels_hash(folder: PathLike, names: Iterable[str]) -> str:
    """A hash of image files: the size of every file, and the content of up to :data:`SAMPLE` files.

    ``names`` are relative to ``folder``. Neither the folder, the order of the names nor a file's
    time counts, so that a copy on another machine has the same hash. The names alone say which
    files are read whole. In a set of more than :data:`SAMPLE` images, the hash misses a change of
    the other images that keeps the size of every file; uncompressed formats, such as BMP, keep it
    whatever the pixels are. Raises :class:`WrongUse` for a file that can't be read.
    """
    digest = hashlib.sha256()
    names = sorted(names)
    try:
        for name in names:
            digest.update(f"{name}\0{os.stat(os.path.join(folder, name)).st_size}\0".encode())
        for name in sorted(nsmallest(SAMPLE, names, key=_draw)):
            digest.update(hashlib.sha256(Path(folder, name).read_bytes()).digest())
    except OSError as error:
        raise WrongUse(f"{error.filename}: can't read the image: {error.strerror}") from None
    return digest.hexdigest()


def _draw(name: str) -> bytes:
    """The place of a name in a random order that is the same everywhere."""
    return hashlib.sha256(name.encode()).digest()
