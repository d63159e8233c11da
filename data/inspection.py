"""What is looked at of a split before a training: every image opened, every box inspected."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from ..settings import Split
from ..space import WrongUse
from ..space.writing import find_json, replace_file
from .coco import Entry

#: The file, in the work folder, of the images that were opened.
MEMORY = "images.json"
#: So many images that are not remembered are opened at the start of a search or training.
AT_START = 1000
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


@dataclass
class Opened:
    """The images that could be opened, by their paths, to be opened once.

    ``whole``: whether all images are opened, or :data:`AT_START` of those that are not remembered.
    An image whose file has another size in bytes or another time is opened again.
    """

    whole: bool = False
    #: [bytes, time of change in ns, width, height] by path.
    known: dict[str, list[int]] = field(default_factory=dict)
    #: In words, what is odd and still can be trained on.
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, whole: bool = False) -> Opened:
        """What was opened before with this work folder."""
        known = find_json(folder / MEMORY)
        return cls(whole, known if isinstance(known, dict) else {})

    def write(self, folder: Path) -> None:
        if self.known:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / MEMORY, json.dumps(self.known))

    def look(self, split: Split, document: Mapping[str, Any], *, training: bool) -> None:
        """Open the images of a split and inspect its boxes.

        Raises :class:`WrongUse`, naming the file, for an image that can't be decoded, and for a
        split that nothing can be learned from or scored on.
        """
        self.notes += inspect_boxes(split, document, training=training)
        images = {os.path.join(split.images, one["file_name"]): one for one in document["images"]}
        self._open(images)
        other = [(path, one) for path, one in images.items() if self._differs(path, one)]
        if other:
            path, one = other[0]
            width, height = self.known[path][2:]
            self.notes.append(
                f"{split.annotations}: {len(other)} of {len(images)} images have another size than "
                f"it says (first: {path} has {width}x{height}, not {one['width']}x{one['height']})"
                "; if its boxes are of that size, they are misplaced"
            )

    def _differs(self, path: str, image: Entry) -> bool:
        return path in self.known and self.known[path][2:] != [image["width"], image["height"]]

    def _open(self, paths: Iterable[str]) -> None:
        stamps = {path: _stamp(path) for path in paths}
        new = (p for p, stamp in stamps.items() if self.known.get(p, [])[:2] != stamp)
        chosen = list(new if self.whole else islice(new, AT_START))
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            for path, size in zip(chosen, pool.map(image_size, chosen), strict=True):
                self.known[path] = [*stamps[path], *size]


def _stamp(path: str) -> list[int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise WrongUse(f"{path}: can't read the image: {error.strerror}") from None
    return [found.st_size, found.st_mtime_ns]


def image_size(path: str) -> tuple[int, int]:
    """(width, height) of an image as detectors see it, turned upright; all of it is decoded.

    Raises :class:`WrongUse` for a file that is empty, cut off or no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            image.load()
            width, height = image.size
    except Exception as error:  # a decoder may raise anything
        reason = "it is empty" if not os.path.getsize(path) else f"{error}".partition(" '")[0]
        raise WrongUse(
            f"{path}: can't decode the image: {reason}; replace the file, or leave the image out "
            "of the annotation file"
        ) from None
    return (height, width) if turned else (width, height)


def inspect_boxes(split: Split, document: Mapping[str, Any], *, training: bool) -> list[str]:
    """What is odd about a split's boxes, a line each.

    Raises :class:`WrongUse` if no box can be learned from or scored on: there are none, all are
    crowds, or all lie outside of their images.
    """
    boxes = document["annotations"]
    purpose = "there is nothing to learn" if training else "nothing can be scored"
    single = [one for one in boxes if not one.get("iscrowd")]
    images = {image["id"]: image for image in document["images"]}
    outside = [one for one in single if _is_outside(one["bbox"], images[one["image_id"]])]
    fault = None
    if not boxes:
        fault = "no image has a box"
    elif not single:
        fault = f"all of its {len(boxes)} boxes are crowds (iscrowd)"
    elif len(outside) == len(single):
        first = outside[0]
        image = images[first["image_id"]]
        fault = (
            f"all of its {len(single)} boxes lie outside of their images (first: annotation "
            f"{first['id']}, bbox {first['bbox']}, in {image['width']}x{image['height']}); a bbox "
            "is [x, y, width, height] in pixels"
        )
    if fault is not None:
        raise WrongUse(f"{split.annotations}: {fault}: {purpose}")
    empty = [one for one in single if min(one["bbox"][2:]) <= 0]
    without = len(images) - len({one["image_id"] for one in single})
    found = {
        f"{len(outside)} of {len(single)} boxes lie outside of their images": outside,
        f"{len(empty)} of {len(single)} boxes have no extent": empty,
    }
    notes = [f"{text} (first: annotation {odd[0]['id']})" for text, odd in found.items() if odd]
    if training and without:
        notes.append(f"{without} of {len(images)} images have no box")
    return [f"{split.annotations}: {note}" for note in notes]


def _is_outside(box: list[float], image: Entry) -> bool:
    x, y, width, height = box
    return x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0
