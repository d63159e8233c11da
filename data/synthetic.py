"""The quickstart's set: textured shapes on textured grounds, drawn here, in COCO format.

Four classes (circle, square, triangle, star), by default up to four shapes of sizes from 1/6 to 1/2
of the image, turned, overlapping and of varied contrast: hard enough that detectors differ, and
small enough for a CPU. The images are a pure function of the parameters.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..space import WrongUse
from ..space.writing import PathLike, find_json, replace_file
from .coco import Document, write_annotations

#: The outline of each class, upright: the number of corners, the distance of every second corner
#: from the centre, and the angle of the first corner in turns.
OUTLINES = {
    "circle": (48, 1.0, 0.0),
    "square": (4, 1.0, 0.125),
    "triangle": (3, 1.0, 0.75),
    "star": (10, 0.45, 0.75),
}
CLASSES = tuple(OUTLINES)
VERSION = 2  # raise it when the images change: sets of other versions are drawn again
MAX_OBJECTS = 4  # of an image
MAX_HIDDEN = 0.5  # of a shape's pixels, by the shapes in front of it
MIN_INSIDE = 0.75  # of a shape's pixels that lie in the image
DIAMETERS = (1 / 6, 1 / 2)  # of the side of the image, log-uniform
CONTRAST = (110, 190)  # distance of a shape's mean colour from the ground's, of 255
NOISE = (2, 6)  # strength of an octave of the textures, of 255
MIN_SQUEEZE = 0.9  # width of a shape over its height
TURN = 0.3  # radians to either side
MAX_TRIES = 20  # to place a shape before the image goes without it
DESCRIPTION = "detkds shapes"

_MANIFEST = "shapes.json"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ShapesFiles:
    """The files of a set: the folder of its images, and the annotation file of each split."""

    images: Path
    train: Path
    val: Path
    test: Path


@dataclass(frozen=True)
class _Parameters:
    train: int
    val: int
    test: int
    size: int
    seed: int
    objects: int
    diameters: tuple[float, float]
    version: int = VERSION


@dataclass(frozen=True)
class Shape:
    """One shape of an image: its class and its pixels, bool of (size, size).

    The mask has all pixels of the shape in the image, also those behind other shapes.
    """

    category: int
    mask: np.ndarray

    @property
    def box(self) -> list[int]:
        """[x, y, width, height], tight around the mask."""
        x, y, width, height = cv2.boundingRect(self.mask.astype(np.uint8))
        return [x, y, width, height]


def shapes_files(folder: PathLike) -> ShapesFiles:
    """The files that :func:`make_shapes` makes in ``folder``."""
    root = Path(folder)
    return ShapesFiles(root / "images", *(root / f"{split}.json" for split in _SPLITS))


def make_shapes(
    folder: PathLike,
    *,
    train: int = 600,
    val: int = 200,
    test: int = 200,
    size: int = 128,
    seed: int = 0,
    objects: int = MAX_OBJECTS,
    diameters: tuple[float, float] = DIAMETERS,
) -> ShapesFiles:
    """Draw the set in ``folder``: ``images/*.png`` of ``size`` x ``size`` pixels and a COCO-format
    ``train.json``, ``val.json`` and ``test.json``.

    An image has 1 to ``objects`` shapes. Their diameters lie between ``diameters``, in shares of
    the image's side.

    A folder that holds this set already stays as it is. A set that is not whole, or has other
    parameters, is drawn again. The same parameters give the same bytes. Raises :class:`WrongUse`
    for a split without images, a size below 32, and a folder with annotation files of another set.
    """
    parameters = _Parameters(train, val, test, size, seed, objects, diameters)
    _check(parameters)
    root = Path(folder)
    files = shapes_files(root)
    if _holds(root, files, parameters):
        return files
    _make_room(root, files)
    for number, split in enumerate(_SPLITS):
        document = _make_split(files.images, split, number, parameters)
        write_annotations(getattr(files, split), document)
    replace_file(root / _MANIFEST, json.dumps(asdict(parameters)) + "\n")
    return files


def draw_image(
    size: int,
    generator: np.random.Generator,
    objects: int = MAX_OBJECTS,
    diameters: tuple[float, float] = DIAMETERS,
) -> tuple[np.ndarray, list[Shape]]:
    """Draw one image, uint8 of (size, size, 3), and its shapes, from back to front."""
    ground = generator.uniform(60, 195, 3)
    image = ground + _noise(size, generator)
    shapes: list[Shape] = []
    for _ in range(generator.integers(1, objects + 1)):
        placed = _place(size, shapes, generator, diameters)
        if placed is None:
            continue
        shape, cover = placed
        shapes.append(shape)
        fill = ground + _contrast(generator) + _noise(size, generator)
        image += cover[..., None] * (fill - image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), shapes


def _noise(size: int, generator: np.random.Generator) -> np.ndarray:
    """Noise around 0, float32 of (size, size, 3), in octaves from coarse blots to single pixels."""
    noise = np.zeros((size, size, 3), np.float32)
    strength = generator.uniform(*NOISE)
    for cells in (4, 8, 16, 32, size):
        grid = generator.uniform(-strength, strength, (cells, cells, 3)).astype(np.float32)
        noise += cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
    return noise


def _contrast(generator: np.random.Generator) -> np.ndarray:
    """The difference of a shape's mean colour to the ground's, of random direction and size."""
    direction = generator.normal(size=3)
    return direction / np.linalg.norm(direction) * generator.uniform(*CONTRAST)


def _place(
    size: int,
    behind: list[Shape],
    generator: np.random.Generator,
    diameters: tuple[float, float],
) -> tuple[Shape, np.ndarray] | None:
    """A shape that hides no other shape too much, and its cover, float32 of (size, size) in [0, 1].

    None if none of the random places is free enough.
    """
    for _ in range(MAX_TRIES):
        category = int(generator.integers(len(CLASSES)))
        corners = _corners(CLASSES[category], size, generator, diameters)
        cover = _cover(corners, size)
        mask = cover >= 0.5
        inside = mask.sum() / cv2.contourArea(corners.astype(np.float32))
        if inside >= MIN_INSIDE and not any(_hides(mask, i, behind) for i in range(len(behind))):
            return Shape(category, mask), cover
    return None


def _hides(mask: np.ndarray, i: int, shapes: list[Shape]) -> bool:
    """Whether shape ``i`` is hidden too much with ``mask`` in front of it."""
    in_front = np.logical_or.reduce([mask, *(shape.mask for shape in shapes[i + 1 :])])
    hidden = (shapes[i].mask & in_front).sum()
    return bool(hidden > MAX_HIDDEN * shapes[i].mask.sum())


def _corners(
    name: str, size: int, generator: np.random.Generator, diameters: tuple[float, float]
) -> np.ndarray:
    """The corners, (corners, 2) in pixels, of a shape of random place, turn, size and squeeze."""
    number, inner, first = OUTLINES[name]
    angles = 2 * math.pi * (first + np.arange(number) / number)
    radii = np.where(np.arange(number) % 2, inner, 1.0)
    corners = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners[:, 0] *= generator.uniform(MIN_SQUEEZE, 1)
    turn = generator.uniform(-TURN, TURN)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    radius = size / 2 * math.exp(generator.uniform(*np.log(diameters)))
    return corners @ rotation.T * radius + generator.uniform(0, size, 2)


def _cover(corners: np.ndarray, size: int) -> np.ndarray:
    """The part of each pixel that lies in the polygon: float32 of (size, size) in [0, 1]."""
    fraction_bits = 4
    cover = np.zeros((size, size), np.uint8)
    points = np.rint(corners * 2**fraction_bits).astype(np.int32)
    cv2.fillPoly(cover, [points], 255, lineType=cv2.LINE_AA, shift=fraction_bits)
    return cover.astype(np.float32) / 255


def _make_split(folder: Path, split: str, number: int, parameters: _Parameters) -> Document:
    """Write the images of a split and return the document that describes them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(getattr(parameters, split)):
        # Each image has its own generator, so that it does not depend on the images before it.
        generator = np.random.default_rng([parameters.seed, number, index])
        image, shapes = draw_image(
            parameters.size, generator, parameters.objects, parameters.diameters
        )
        name = f"{split}_{index:05d}.png"
        if not cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{folder / name}: can't write this image")
        size = {"width": parameters.size, "height": parameters.size}
        images.append({"id": index + 1, "file_name": name, **size})
        for shape in shapes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": shape.category + 1,
                    "bbox": shape.box,
                    "area": int(shape.mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {
        "info": {"description": DESCRIPTION},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _check(parameters: _Parameters) -> None:
    for split in _SPLITS:
        if getattr(parameters, split) < 1:
            raise WrongUse(f"{split}={getattr(parameters, split)}: a split holds at least 1 image")
    if parameters.size < 32:
        raise WrongUse(f"size={parameters.size}: shapes can't be told apart below 32 pixels")
    smallest, largest = parameters.diameters
    if parameters.objects < 1:
        raise WrongUse(f"objects={parameters.objects}: an image has at least 1 shape")
    if not 4 / parameters.size <= smallest <= largest <= 1:
        raise WrongUse(
            f"diameters={smallest:g},{largest:g}: give shares of the image's side, the smaller "
            f"first, from {4 / parameters.size:g} (4 pixels) to 1"
        )
    if parameters.seed < 0:
        raise WrongUse(f"seed={parameters.seed}: a seed is 0 or a positive integer")


def _holds(root: Path, files: ShapesFiles, parameters: _Parameters) -> bool:
    """Whether the folder holds the whole set, whose manifest is written last."""
    manifest = find_json(root / _MANIFEST)
    if manifest != json.loads(json.dumps(asdict(parameters))) or not files.images.is_dir():
        return False
    total = parameters.train + parameters.val + parameters.test
    return len(os.listdir(files.images)) == total and all(
        getattr(files, split).is_file() for split in _SPLITS
    )


def _make_room(root: Path, files: ShapesFiles) -> None:
    """Delete an older set of shapes. Raises :class:`WrongUse` for files of another set."""
    for split in _SPLITS:
        path = getattr(files, split)
        if path.exists() and not _is_ours(path):
            raise WrongUse(f"{path}: it belongs to another set; make the shapes in another folder")
    if (root / _MANIFEST).exists():
        (root / _MANIFEST).unlink()
        shutil.rmtree(files.images, ignore_errors=True)
    try:
        files.images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"{root}: can't make this folder: {error.strerror}; give a folder") from None


def _is_ours(path: Path) -> bool:
    document = find_json(path)
    info = document.get("info") if isinstance(document, dict) else None
    return isinstance(info, dict) and info.get("description") == DESCRIPTION
