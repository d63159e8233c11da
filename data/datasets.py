"""mmdet's configs of data sets: the innermost ones, other files for them, what a cache may keep.

A data set may stand in wrappers: RepeatDataset, ClassBalancedDataset and MultiImageMixDataset hold
one under ``dataset``, ConcatDataset several under ``datasets``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..settings import Split
from ..space import WrongUse

Config = dict[str, Any]

#: Wrappers whose images are those of the data set inside, one by one.
_PLAIN_WRAPPERS = {"RepeatDataset", "ClassBalancedDataset", "ConcatDataset"}
#: Transforms that give the same image and boxes every time.
_FIXED = {
    *("LoadImageFromFile", "LoadAnnotations", "FilterAnnotations"),
    *("Resize", "FixScaleResize", "FixShapeResize", "ResizeForStudent", "Pad"),
}
#: Transforms that end a pipeline; they change no pixel.
_PACKING = {"PackDetInputs", "PackWithStudentImage"}
#: Transforms that load. A cache starts with them, and goes on as far as transforms are fixed.
_LOADING = {"LoadImageFromFile", "LoadAnnotations"}


def innermost(dataset: Config, where: str) -> list[Config]:
    """The configs of the data sets with files, inside of all wrappers; parts of ``dataset`` itself.

    ``where``: the path of ``dataset``, for messages. Raises :class:`WrongUse` for a wrapper that
    holds none where detkds looks for it.
    """
    return [inner for _, inner in _walk(dataset, where)]


def _walk(dataset: Any, where: str) -> Iterator[tuple[str, Config]]:
    if not isinstance(dataset, Mapping):
        raise WrongUse(f"{where}: it is no config of a data set: {dataset!r:.60}")
    if isinstance(dataset.get("dataset"), Mapping):
        yield from _walk(dataset["dataset"], f"{where}.dataset")
    elif isinstance(dataset.get("datasets"), Sequence) and dataset["datasets"]:
        for index, one in enumerate(dataset["datasets"]):
            yield from _walk(one, f"{where}.datasets.{index}")
    elif dataset.get("ann_file"):
        yield where, dataset  # type: ignore[misc]
    else:
        raise WrongUse(
            f"{where}: {_type(dataset)} has no `ann_file`, and no data set inside under `dataset` "
            "or `datasets`: the innermost data set can't be found; name it so, or give the "
            "section `data` in a search config"
        )


def repeats(dataset: Config) -> int:
    """How many times an epoch shows an image: RepeatDataset's ``times``.

    Of data sets side by side, the first one's; a ClassBalancedDataset counts once.
    """
    if isinstance(dataset.get("dataset"), Mapping):
        times = dataset.get("times", 1) if _type(dataset) == "RepeatDataset" else 1
        return times * repeats(dataset["dataset"])
    if dataset.get("datasets"):
        return repeats(dataset["datasets"][0])
    return 1


def files_of(inner: Config) -> Split:
    """The files of an innermost data set, by their whole paths."""
    root = inner.get("data_root") or ""
    prefix = inner.get("data_prefix") or {}
    images = prefix if isinstance(prefix, str) else prefix.get("img", prefix.get("img_path", ""))
    return Split(
        annotations=os.path.join(root, inner["ann_file"]), images=os.path.join(root, images)
    )


def with_files(dataset: Config, split: Split, where: str = "dataset") -> Config:
    """A copy of a data set's config whose innermost data sets have the files of ``split``.

    A split with parts gives one part to each of them; the first data set alone stands for a split
    without parts, without its wrappers.
    """
    dataset = copy.deepcopy(dataset)
    found = innermost(dataset, where)
    parts = split.parts or [split]
    if len(parts) == 1 < len(found):
        dataset, found = found[0], found[:1]
    if len(parts) != len(found):
        raise WrongUse(
            f"{where}: it joins {len(found)} data sets, and there are {len(parts)} files"
        )
    for inner, part in zip(found, parts, strict=True):
        prefix = inner.get("data_prefix")
        key = "img_path" if isinstance(prefix, Mapping) and "img_path" in prefix else "img"
        others = {} if not isinstance(prefix, Mapping) else prefix
        inner.pop("data_root", None)
        inner["ann_file"] = part.annotations
        inner["data_prefix"] = {**others, key: part.images}
    return dataset


def without_files(dataset: Config) -> Config:
    """A copy of a data set's config that does not say where its files lie."""
    dataset = copy.deepcopy(dataset)
    for inner in innermost(dataset, "dataset"):
        for key in ("data_root", "data_prefix", "ann_file"):
            inner.pop(key, None)
    return dataset


def views(dataset: Config) -> int | None:
    """In how many sizes an image of the data set comes, apart from a flip; None: it is not fixed.

    Images are fixed if their file, their size and whether they are flipped decide every pixel and
    every box. What a teacher knows of them may then be remembered by these three. A crop, a change
    of colours, a mosaic, a size drawn from a range, and every transform or wrapper that is not
    known here make images that differ from time to time.
    """
    kind = _type(dataset)
    if kind in _PLAIN_WRAPPERS:
        inner = dataset.get("datasets") or [dataset.get("dataset")]
        pipelines = [one.get("pipeline") for one in innermost(dataset, "dataset")]
        counts = [views(one) for one in inner]
        same = all(pipeline == pipelines[0] for pipeline in pipelines)
        return counts[0] if same and None not in counts else None
    if kind != "CocoDataset":
        return None
    sizes = 1
    for transform in dataset.get("pipeline", ()):
        count = _sizes(transform)
        if count is None:
            return None
        sizes *= count
    return sizes


def _sizes(transform: Config) -> int | None:
    """In how many sizes a transform gives an image, apart from a flip; None: it is not fixed."""
    kind = _type(transform)
    if kind in _FIXED or kind in _PACKING:
        return 1
    if kind == "RandomFlip":
        one_direction = isinstance(transform.get("direction", "horizontal"), str)
        return 1 if one_direction and not isinstance(transform.get("prob"), list | tuple) else None
    if kind == "RandomChoiceResize" and transform.get("resize_type", "Resize") == "Resize":
        return len(transform.get("scales", ()))
    if kind == "CachedTransforms":
        inner = [_sizes(one) for one in transform["transforms"]]
        return None if None in inner else max(1, len(transform.get("sizes", ())))
    return None


def cached(dataset: Config, megabytes: int) -> Config:
    """A copy of a data set's config that keeps what its pipelines' first transforms give.

    Kept is what stands before the first transform that is not fixed (see :func:`views`), so every
    draw of a crop or a mosaic is made anew. ``megabytes``: of pixels, shared out among the
    innermost data sets.
    """
    dataset = copy.deepcopy(dataset)
    found = innermost(dataset, "dataset")
    for inner in found:
        pipeline = list(inner.get("pipeline", ()))
        count = next(
            (i for i, one in enumerate(pipeline) if _type(one) not in _FIXED), len(pipeline)
        )
        if count and _type(pipeline[0]) in _LOADING:
            kept = {
                "type": "CachedTransforms",
                "transforms": pipeline[:count],
                "megabytes": megabytes // len(found),
            }
            inner["pipeline"] = [kept, *pipeline[count:]]
    return dataset


def _type(config: Mapping[str, Any]) -> str:
    """A class's name without the module or the registry's scope before it."""
    return str(config.get("type")).rpartition(".")[2]
