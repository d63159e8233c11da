"""Data sets of other formats than COCO's: read by mmdet, written as COCO-format files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..detectors import register  # first: it makes mmcv.ops importable, which mmdet imports

# isort: split
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from ..settings import Split
from ..space import WrongUse
from .coco import Document, Entry
from .datasets import Config
from .loading import built, known_classes

#: What a CocoDataset takes over from a data set of another format.
_KEPT = {
    *("pipeline", "filter_cfg", "test_mode", "backend_args", "indices"),
    *("serialize_data", "max_refetch"),
}


def as_coco(inner: Config, file: str, where: str) -> Split | None:
    """Make a CocoDataset over ``file`` of an innermost data set's config; the split that it shows.

    The split has the data set of before as its ``source``: the file is written when there is a
    search or a training. None for a CocoDataset and what is built on it, which stay as they are.
    ``where``: the data set's path. Raises :class:`WrongUse` if mmdet can't read the data set.
    """
    register()
    kind = DATASETS.get(inner["type"])
    if kind is None or issubclass(kind, CocoDataset):
        return None
    source = {n: v for n, v in inner.items() if n not in ("pipeline", "indices", "filter_cfg")}
    if "bbox_min_size" in (inner.get("filter_cfg") or {}):  # VOC's: smaller boxes are ignored
        source["filter_cfg"] = inner["filter_cfg"]
    path = "data_root" if source.get("data_root") else "ann_file"
    source[path] = os.path.abspath(source[path])
    try:
        _, images = _read(json.dumps(source, default=str))
    except WrongUse as error:
        raise WrongUse(f"{where}: {error}", "student") from None
    split = Split(annotations=file, images=images, source=source)
    classes = known_classes(inner)
    kept = {name: copy.deepcopy(inner[name]) for name in _KEPT if name in inner}
    inner.clear()
    inner.update(type="CocoDataset", ann_file=file, data_prefix={"img": images}, **kept)
    inner["metainfo"] = {"classes": classes}
    return split


def document_of(source: Mapping[str, Any]) -> Document:
    """The COCO-format document of a data set's config; its file names follow its split's folder.

    A box that the data set marks as ignored (VOC's difficult ones) is a crowd. Classes have the
    numbers 1, 2, … in the data set's order. Raises :class:`WrongUse` if mmdet can't read it.
    """
    return copy.deepcopy(_read(json.dumps(source, default=str))[0])


@lru_cache(maxsize=4)
def _read(text: str) -> tuple[Document, str]:
    """The document of a data set's config, written as JSON, and the folder of its images."""
    config = json.loads(text)
    kind = str(config["type"])
    try:
        dataset = built({**config, "lazy_init": True, "pipeline": []})
        entries = dataset.load_data_list()  # before images without boxes are left out
    except Exception as error:  # a data set's class raises anything
        reason = next(iter(str(error).splitlines()), "")
        raise WrongUse(f"mmdet can't read the {kind}: {type(error).__name__}: {reason}") from None
    if not entries:
        raise WrongUse(f"the {kind} lists no images")
    lacking = [key for key in ("img_path", "height", "width") if key not in entries[0]]
    if lacking:
        raise WrongUse(
            f"the {kind} says no {lacking[0]} of its images, which COCO-format files have: "
            "let its load_data_list give it, or write a COCO-format file yourself"
        )
    paths = [os.path.abspath(entry["img_path"]) for entry in entries]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    images: list[Entry] = []
    annotations: list[Entry] = []
    for number, (path, entry) in enumerate(zip(paths, entries, strict=True), 1):
        size = {"width": int(entry["width"]), "height": int(entry["height"])}
        images.append({"id": number, "file_name": os.path.relpath(path, folder), **size})
        for instance in entry.get("instances", ()):
            one = _annotation(instance)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
    names = dataset.metainfo["classes"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, folder


def _annotation(instance: Mapping[str, Any]) -> Entry:
    left, top, right, bottom = map(float, instance["bbox"])
    width, height = max(0.0, right - left), max(0.0, bottom - top)
    found: Entry = {
        "category_id": int(instance["bbox_label"]) + 1,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": int(bool(instance.get("ignore_flag"))),
    }
    if instance.get("mask") is not None:
        found["segmentation"] = instance["mask"]
    return found
