"""The quickstart's set: textured shapes on textured grounds, made on the spot in COCO format.

Four classes (circle, square, triangle, star) of sizes from 1/6 to 1/2 of the image, turned,
overlapping and of varied contrast: large enough a task that detectors differ, small enough for
a CPU. The images are a pure function of the parameters.
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
from .coco import Document, PathLike, write_annotations

#: Of each class's outline: number of corners, distance from the centre of every other one, angle
#: of the first, in turns: all stand upright before they are turned.
OUTLINES = {
    "circle": (48, 1.0, 0.0),
    "square": (4, 1.0, 0.125),
    "triangle": (3, 1.0, 0.75),
    "star": (10, 0.45, 0.75),
}
CLASSES = tuple(OUTLINES)
VERSION = 2  # raise it when the images change: a set made by another version is made anew
MOST_OBJECTS = 4
MOST_HIDDEN = 0.5  # of a shape's pixels, by the shapes in front of it
LEAST_INSIDE = 0.75  # of a shape's pixels that lie in the image
DIAMETERS = (1 / 6, 1 / 2)  # of the side of the image, log-uniform
CONTRAST = (110, 190)  # distance of a shape's mean colour to the ground's, of 255
NOISE = (2, 6)  # strength of an octave of the textures, of 255
LEAST_SQUEEZE = 0.9  # width of a shape over its height
TURN = 0.3  # radians to either side
TRIES = 20  # to place a shape before the image goes without it
DESCRIPTION = "detkds shapes"

_MANIFEST = "shapes.json"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ShapesFiles:
    """Where the set lies: the folder of the images and an annotation file for each split."""

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
    version: int = VERSION


@dataclass(frozen=True)
class Shape:
    """One shape of an image: its class and the pixels it covers, bool of (size, size).

    The pixels are the whole shape's as far as it lies in the image, whatever is in front of it.
    """

    category: int
    mask: np.ndarray

    @property
    def box(self) -> list[int]:
        """[x, y, width, height], tight around the mask."""
        x, y, width, height = cv2.boundingRect(self.mask.astype(np.uint8))
        return [x, y, width, height]


def shapes_files(folder: PathLike) -> ShapesFiles:
    """Where :func:`make_shapes` puts its files in ``folder``."""
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
) -> ShapesFiles:
    """Make the set in ``folder``: ``images/*.png`` of ``size`` x ``size`` pixels and a COCO-format
    ``train.json``, ``val.json`` and ``test.json``.

    A folder that already holds this set is left as it is; one made half, or with other parameters,
    is made anew. The same parameters give the same bytes. Raises :class:`WrongUse` for a split
    without images, a size below 32, and a folder with annotation files of another set.
    """
    parameters = _Parameters(train, val, test, size, seed)
    _check(parameters)
    root = Path(folder)
    files = shapes_files(root)
    if _holds(root, files, parameters):
        return files
    _make_room(root, files)
    for number, split in enumerate(_SPLITS):
        document = _make_split(files.images, split, number, parameters)
        write_annotations(getattr(files, split), document)
    (root / _MANIFEST).write_text(json.dumps(asdict(parameters)) + "\n", "utf-8")
    return files


def draw_image(size: int, generator: np.random.Generator) -> tuple[np.ndarray, list[Shape]]:
    """Draw one image, uint8 of (size, size, 3), and its shapes, the hindmost first."""
    ground = generator.uniform(60, 195, 3)
    image = ground + _noise(size, generator)
    shapes: list[Shape] = []
    for _ in range(generator.integers(1, MOST_OBJECTS + 1)):
        placed = _place(size, shapes, generator)
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
    """How far a shape's mean colour is from the ground's: any direction, a random distance."""
    direction = generator.normal(size=3)
    return direction / np.linalg.norm(direction) * generator.uniform(*CONTRAST)


def _place(
    size: int, behind: list[Shape], generator: np.random.Generator
) -> tuple[Shape, np.ndarray] | None:
    """A shape in a free enough place and its cover, float32 of (size, size) in [0, 1]; or None."""
    for _ in range(TRIES):
        category = int(generator.integers(len(CLASSES)))
        corners = _corners(CLASSES[category], size, generator)
        cover = _cover(corners, size)
        mask = cover >= 0.5
        inside = mask.sum() / cv2.contourArea(corners.astype(np.float32))
        if inside >= LEAST_INSIDE and not any(_hides(mask, i, behind) for i in range(len(behind))):
            return Shape(category, mask), cover
    return None


def _hides(mask: np.ndarray, i: int, shapes: list[Shape]) -> bool:
    """Whether ``mask``, put in front, leaves too little of shape ``i`` to be seen."""
    in_front = np.logical_or.reduce([mask, *(shape.mask for shape in shapes[i + 1 :])])
    hidden = (shapes[i].mask & in_front).sum()
    return bool(hidden > MOST_HIDDEN * shapes[i].mask.sum())


def _corners(name: str, size: int, generator: np.random.Generator) -> np.ndarray:
    """Corners, in pixels, of a shape at a random place, turn, size and squeeze; (corners, 2)."""
    number, inner, first = OUTLINES[name]
    angles = 2 * math.pi * (first + np.arange(number) / number)
    radii = np.where(np.arange(number) % 2, inner, 1.0)
    corners = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners[:, 0] *= generator.uniform(LEAST_SQUEEZE, 1)
    turn = generator.uniform(-TURN, TURN)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    radius = size / 2 * math.exp(generator.uniform(*np.log(DIAMETERS)))
    return corners @ rotation.T * radius + generator.uniform(0, size, 2)


def _cover(corners: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel lies in the polygon: float32 of (size, size) in [0, 1]."""
    fraction_bits = 4
    cover = np.zeros((size, size), np.uint8)
    points = np.rint(corners * 2**fraction_bits).astype(np.int32)
    cv2.fillPoly(cover, [points], 255, lineType=cv2.LINE_AA, shift=fraction_bits)
    return cover.astype(np.float32) / 255


def _make_split(folder: Path, split: str, number: int, parameters: _Parameters) -> Document:
    """Write the images of a split; the document that describes them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(getattr(parameters, split)):
        # A generator of its own makes an image the same whatever is drawn before it.
        generator = np.random.default_rng([parameters.seed, number, index])
        image, shapes = draw_image(parameters.size, generator)
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
    if parameters.seed < 0:
        raise WrongUse(f"seed={parameters.seed}: a seed is 0 or a positive integer")


def _holds(root: Path, files: ShapesFiles, parameters: _Parameters) -> bool:
    """Whether the set is there already, whole: the manifest is written last."""
    manifest = _read_json(root / _MANIFEST)
    if manifest != asdict(parameters) or not files.images.is_dir():
        return False
    total = parameters.train + parameters.val + parameters.test
    return len(os.listdir(files.images)) == total and all(
        getattr(files, split).is_file() for split in _SPLITS
    )


def _make_room(root: Path, files: ShapesFiles) -> None:
    """Take away an older set, and only that; a folder with files of another kind is refused."""
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
    document = _read_json(path)
    info = document.get("info") if isinstance(document, dict) else None
    return isinstance(info, dict) and info.get("description") == DESCRIPTION


def _read_json(path: Path) -> Any:
    """The file's content, or None if there is no whole JSON file."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
