"""Downloaded checkpoints: whole, a file for each address, with the hash that the name holds."""

from __future__ import annotations

import hashlib
import http.client
import re
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from ..space import WrongUse
from ..space.writing import replacing

#: A name as mmdet's and torchvision's model zoos give it ends with the first 8 hex digits of the
#: file's sha256: ``retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth``.
_HASH = re.compile(r"-([0-9a-f]{8})\.\w+$")
#: Eight digits that are a date, as in ``mine-20240131.pth``, and no hash.
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
#: Seconds without any data after which a download fails.
_TIMEOUT = 60


def is_address(path: object) -> bool:
    """Whether a checkpoint is an http(s) address, not a file."""
    return str(path).startswith(("http://", "https://"))


def local_file(path: object) -> Path:
    """The file of a checkpoint; an address is downloaded if it is not in torch.hub's cache yet.

    A file whose name holds a hash has the place in the cache that torch.hub gives it, which other
    programs share, and must have that hash: a cached file with another hash is downloaded again.
    Every other address has a folder of its own, since names such as ``epoch_12.pth`` repeat.
    Raises :class:`WrongUse` for an address that can't be downloaded whole, or whose file has
    another hash than its name says; no such file is kept.
    """
    if not is_address(path):
        return Path(str(path)).expanduser()
    url = str(path)
    name = re.split(r"[?#]", url)[0].rpartition("/")[2].strip(".") or "checkpoint"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    expected = named_hash(name)
    if expected is None:
        folder = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
    file = folder / name
    if not file.is_file() or not (expected is None or file_hash(file).startswith(expected)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, file, expected)
        except WrongUse:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise WrongUse(
                f"{url}: can't download the checkpoint: {error}; give another address or a file"
            ) from None
    return file


def named_hash(name: str) -> str | None:
    """The first hex digits of the sha256 that a file's name holds, or None."""
    found = _HASH.search(name)
    return None if found is None or _DATE.fullmatch(found[1]) else found[1]


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hex. A process hashes a file again only if the file has changed."""
    state = path.stat()
    return _hash(path.absolute(), state.st_size, state.st_mtime_ns)


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, file: Path, expected: str | None) -> None:
    """Download a file whole, with the expected hash, or raise and keep nothing."""
    request = Request(url, headers={"User-Agent": "detkds"})
    digest, received = hashlib.sha256(), 0
    with replacing(file) as temporary:
        with urlopen(request, timeout=_TIMEOUT) as answer, temporary.open("wb") as out:
            length = answer.headers.get("Content-Length")
            while block := answer.read(2**20):
                received += out.write(block)
                digest.update(block)
        if length is not None and received != int(length):
            raise WrongUse(
                f"{url}: the download ended after {received} of {length} bytes; try again, or "
                "download the file otherwise and give the file"
            )
        if expected is not None and not digest.hexdigest().startswith(expected):
            raise WrongUse(
                f"{url}: the file's sha256 begins with {digest.hexdigest()[:8]} and its name says "
                f"{expected}: the address serves another file; give the address of the model zoo, "
                "or download the file, check it and give the file"
            )
