"""COCO-format annotation files: read, checked and written whole or not at all.

The format: https://cocodataset.org/#format-data. A checked document is the file's own dict, with
the lists ``images``, ``annotations`` and ``categories``; other entries are kept as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..settings import Split
from ..space import WrongUse
from ..space.writing import PathLike, read_json, replacing

Document = dict[str, Any]
Entry = dict[str, Any]

SIZES = ("small", "medium", "large")
SMALL_BELOW = 32**2
MEDIUM_BELOW = 96**2

_LISTS = ("images", "annotations", "categories")
_BOX = "[x, y, width, height], finite numbers, with a positive width and height"
_INFINITY = float("inf")


def size_class(area: float) -> str:
    """COCO's size class of an object of ``area`` pixels: below 32² small, below 96² medium."""
    if area < SMALL_BELOW:
        return "small"
    return "medium" if area < MEDIUM_BELOW else "large"


def read_annotations(path: PathLike) -> Document:
    """Read and check a COCO-format annotation file.

    Raises :class:`WrongUse` naming the file if the file is missing or is not a whole JSON document,
    lacks one of the three lists, repeats an id or a file name, points to an unknown image or
    category, or has a wrong box or area. Empty annotations (area 0 on a box without extent) pass:
    COCO's train2017 itself has two of them, and detectors leave them out.
    """
    return check_document(
        read_json(path, "the annotation file", "give a COCO-format JSON file"), path
    )


def check_document(document: Any, path: PathLike) -> Document:
    """The document, if it is a COCO-format one; ``path``: where it is from, or will lie."""
    for find_fault in (_find_layout_fault, _find_entry_fault, _find_annotation_fault):
        fault = find_fault(document)
        if fault is not None:
            raise WrongUse(f"{path}: {fault}")
    return document


def read_document(split: Split) -> Document:
    """Read the annotations of a split, of all its parts if it joins some.

    The images of a joined split have their file names relative to the split's folder, new ids, and
    the number of their ``part``. Raises :class:`WrongUse` as :func:`read_annotations` does, and for
    parts with other categories than the first's.
    """
    if split.source is not None:
        from .formats import document_of  # not above: it needs mmdet

        return check_document(document_of(split.source), split.annotations)
    if not split.parts:
        return read_annotations(split.annotations)
    images: list[Entry] = []
    annotations: list[Entry] = []
    documents = [read_document(part) for part in split.parts]
    categories = documents[0]["categories"]
    for number, (part, document) in enumerate(zip(split.parts, documents, strict=True)):
        if class_ids(document) != class_ids(documents[0]):
            raise WrongUse(
                f"{part.annotations}: its categories differ from those of "
                f"{split.parts[0].annotations}; sets that are joined must have the same"
            )
        ids = {image["id"]: len(images) + i for i, image in enumerate(document["images"], 1)}
        for image in document["images"]:
            file = os.path.relpath(os.path.join(part.images, image["file_name"]), split.images)
            images.append({**image, "id": ids[image["id"]], "file_name": file, "part": number})
        for annotation in document["annotations"]:
            own = {"id": len(annotations) + 1, "image_id": ids[annotation["image_id"]]}
            annotations.append({**annotation, **own})
    return {"images": images, "annotations": annotations, "categories": categories}


def join(parts: Sequence[Split], file: PathLike) -> Split:
    """The split that joins ``parts``, if there are several; its annotations will be in ``file``."""
    if len(parts) == 1:
        return parts[0]
    folder = os.path.commonpath([part.images for part in parts])
    return Split(annotations=str(file), images=folder, parts=list(parts))


def part_of(document: Mapping[str, Any], split: Split, number: int) -> Document:
    """One part of a joined document, its file names relative to the part's own folder."""
    images = [
        {**image, "file_name": os.path.relpath(path, split.parts[number].images)}
        for image in document["images"]
        if image["part"] == number
        for path in [os.path.join(split.images, image["file_name"])]
    ]
    kept = {image["id"] for image in images}
    annotations = [a for a in document["annotations"] if a["image_id"] in kept]
    return {**document, "images": images, "annotations": annotations}


def read_split(split: Split) -> Document:
    """Read the annotations of a split that detectors train or are scored on; check its images.

    Raises :class:`WrongUse` as :func:`read_annotations` does, and if the file lists no images, if
    an image's file is missing from the split's folder, or if an entry lacks what detectors and
    COCO's metrics need.
    """
    document = read_document(split)
    for kind, keys in (("images", ("width", "height")), ("annotations", ("area", "iscrowd"))):
        fault = _find_lacking(document[kind], kind, keys)
        if fault is not None:
            raise WrongUse(f"{split.annotations}: {fault}")
    if not document["images"]:
        raise WrongUse(f"{split.annotations}: it lists no images, a split has at least 1")
    if not os.path.isdir(split.images):
        raise WrongUse(
            f"{split.images}: there is no such folder; {split.annotations} looks for its images "
            "there"
        )
    names = [image["file_name"] for image in document["images"]]
    missing = _missing_files(names, split.images)
    if missing:
        raise WrongUse(
            f"{split.annotations}: {len(missing)} of {len(names)} images are not in {split.images} "
            f"(first: {missing[0]}); give the folder that the file names are relative to"
        )
    return document


def class_names(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the document's categories, in the order of their ids."""
    categories = sorted(document["categories"], key=lambda category: category["id"])
    return tuple(category["name"] for category in categories)


def class_ids(document: Mapping[str, Any]) -> dict[int, str]:
    """The names of the document's categories by their ids."""
    return {category["id"]: category["name"] for category in document["categories"]}


def write_annotations(path: PathLike, document: Mapping[str, Any]) -> None:
    """Write an annotation file whole or not at all."""
    write_together({path: document})


def write_together(documents: Mapping[PathLike, Mapping[str, Any]]) -> None:
    """Write several annotation files; no file is replaced before all are written."""
    with ExitStack() as stack:
        for path, document in documents.items():
            temporary = stack.enter_context(replacing(path))
            temporary.write_text(json.dumps(document, ensure_ascii=False) + "\n", "utf-8")


def _find_layout_fault(document: Any) -> str | None:
    if not isinstance(document, dict):
        return f"a COCO-format file is a JSON object, not {type(document).__name__}"
    for name in _LISTS:
        if not isinstance(document.get(name), list):
            return f"no list '{name}': a COCO-format file has the lists {', '.join(_LISTS)}"
        if not all(isinstance(entry, dict) for entry in document[name]):
            return f"the list '{name}' holds something other than JSON objects"
    return None


def _find_entry_fault(document: Document) -> str | None:
    required = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("id",)}
    for kind, keys in required.items():
        fault = _find_lacking(document[kind], kind, keys)
        for key in keys:
            fault = fault or _find_repeated(document[kind], kind, key)
        if fault is not None:
            return fault
    return None


def _find_annotation_fault(document: Document) -> str | None:
    annotations = document["annotations"]
    images = {image["id"] for image in document["images"]}
    categories = {category["id"] for category in document["categories"]}
    return (
        _find_wrong(
            annotations, "image_id", lambda a: _known(a.get("image_id"), images), "in 'images'"
        )
        or _find_wrong(
            annotations,
            "category_id",
            lambda a: _known(a.get("category_id"), categories),
            "in 'categories'",
        )
        or _find_wrong(annotations, "area", _has_area, "a finite number, 0 or more")
        or _find_wrong(annotations, "bbox", _has_box, _BOX)
    )


def _find_lacking(entries: Iterable[Entry], kind: str, keys: Sequence[str]) -> str | None:
    for position, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry.get(key), str | int | float):
                return f"{kind}[{position}] (id {entry.get('id')!r}) has no '{key}'"
    return None


def _find_repeated(entries: Iterable[Entry], kind: str, key: str) -> str | None:
    seen = set()
    for entry in entries:
        if entry[key] in seen:
            return f"the {key} {entry[key]!r} is there twice in '{kind}': each needs its own"
        seen.add(entry[key])
    return None


def _find_wrong(
    annotations: Sequence[Entry], key: str, is_right: Callable[[Entry], bool], right: str
) -> str | None:
    wrong = [annotation for annotation in annotations if not is_right(annotation)]
    if not wrong:
        return None
    first = wrong[0]
    return (
        f"{len(wrong)} of {len(annotations)} annotations have a wrong {key} "
        f"(first: annotation {first['id']}, {key} {first.get(key)!r:.60}); it must be {right}"
    )


def _known(value: Any, ids: set[Any]) -> bool:
    return isinstance(value, str | int | float) and value in ids


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -_INFINITY < value < _INFINITY


def _has_area(annotation: Entry) -> bool:
    area = annotation.get("area", 0)
    return _is_finite(area) and area >= 0


def _has_box(annotation: Entry) -> bool:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return False
    width, height = box[2:]
    if annotation.get("area") == 0:
        return width >= 0 and height >= 0
    return width > 0 and height > 0


def _missing_files(names: Iterable[str], folder: PathLike) -> list[str]:
    """The names whose files are missing. Each folder is listed once."""
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(os.path.join(folder, name))
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if base not in listings[parent]:
            missing.append(name)
    return missing
