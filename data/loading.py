"""mmdet datasets over COCO-format files; each image is decoded and resized once for each size."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors import register  # first: it makes mmcv.ops importable, which mmdet imports

# isort: split
import mmcv
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import DATASETS, METRICS, TRANSFORMS
from mmengine.registry import FUNCTIONS
from torch.utils.data import get_worker_info

from ..settings import Data, Split
from ..space import WrongUse
from .coco import class_names

#: The student's image, in the results of transforms and in data samples, if a teacher's is larger.
STUDENT_IMAGE = "student_image"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide standard output, to which pycocotools prints its steps."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        yield


@TRANSFORMS.register_module()
class CachedTransforms(BaseTransform):
    """Loads an image and resizes it into one of ``sizes``, and keeps the results.

    ``transforms`` load the image; they are deterministic. ``sizes``: (width, height)s; if there are
    several, each has the same probability every time that the image is asked for. The aspect ratio
    is kept. Without sizes, nothing is resized. Up to ``megabytes`` of pixels are kept, each size of
    an image apart; images beyond the limit are transformed every time. A data loader's worker
    process keeps nothing, since its memory ends with the epoch.
    """

    def __init__(
        self,
        transforms: list[dict[str, Any]],
        sizes: Sequence[tuple[int, int]] = (),
        megabytes: int = 0,
    ) -> None:
        self.load = [TRANSFORMS.build(transform) for transform in transforms]
        self.resize = [
            TRANSFORMS.build({"type": "Resize", "scale": tuple(size), "keep_ratio": True})
            for size in sizes
        ]
        self.free = megabytes * 2**20
        self.known: dict[tuple[str, int], dict[str, Any]] = {}

    def __deepcopy__(self, memo: dict) -> CachedTransforms:
        return self  # a data set's copy shares the pixels

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        # A single size takes no random number.
        size = np.random.randint(len(self.resize)) if len(self.resize) > 1 else 0
        key = results["img_path"], size
        if key in self.known:
            return _copy(self.known[key])
        loaded = results
        for transform in (*self.load, *self.resize[size : size + 1]):
            loaded = transform(loaded)
            if loaded is None:  # no box is left: mmdet takes another image
                return None
        pixels = sum(loaded[name].nbytes for name in ("img", STUDENT_IMAGE) if name in loaded)
        if pixels <= self.free and get_worker_info() is None:
            self.free -= pixels
            self.known[key] = _copy(loaded)
        return loaded


@TRANSFORMS.register_module()
class ResizeForStudent(BaseTransform):
    """Keeps the image as the student's tests would have it, beside the larger one of a teacher."""

    def __init__(self, scale: tuple[int, int]) -> None:
        self.resize = TRANSFORMS.build({"type": "Resize", "scale": scale, "keep_ratio": True})

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results[STUDENT_IMAGE] = self.resize({"img": results["img"]})["img"]
        return results


@TRANSFORMS.register_module()
class PackWithStudentImage(PackDetInputs):
    """mmdet's packing, with the student's image, flipped as the other, in the data sample."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        packed = super().transform(results)
        image = results[STUDENT_IMAGE]
        if results.get("flip"):
            image = mmcv.imflip(image, results["flip_direction"])
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        packed["data_samples"].set_field(pixels, STUDENT_IMAGE)
        return packed


def _copy(results: dict[str, Any]) -> dict[str, Any]:
    """A copy with arrays and boxes of its own, which later transforms may write to."""
    return {
        key: value.copy()
        if isinstance(value, np.ndarray | dict)
        else value.clone()
        if hasattr(value, "clone")
        else value
        for key, value in results.items()
    }


def dataset_config(
    split: Split, data: Data, *, training: bool, masks: bool = False
) -> dict[str, Any]:
    """The config of mmdet's ``CocoDataset`` of a split with all classes of its file.

    A training set has images of ``data.train_sizes``, flips them with probability ``data.flip`` and
    leaves out images without boxes, as mmdet does. Other sets have all images, of
    ``data.image_size``. The aspect ratio is kept. If a teacher sees larger images than the student,
    the data samples of a training set hold the student's, ``student_image`` (3, H, W): pixel by
    pixel the image that a set for testing has. ``masks``: with the objects' outlines, for detectors
    with a mask head.
    """
    document = json.loads(Path(split.annotations).read_text("utf-8"))
    assert data.image_size is not None
    two_sizes = training and data.train_size != data.image_size
    load: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks, "poly2mask": False},
    ]
    if two_sizes:
        load.append({"type": "ResizeForStudent", "scale": tuple(data.image_size)})
    pipeline: list[dict[str, Any]] = [
        {
            "type": "CachedTransforms",
            "transforms": load,
            "sizes": data.train_sizes if training else [data.image_size],
            "megabytes": data.cache_megabytes,
        }
    ]
    if training:
        pipeline.append({"type": "RandomFlip", "prob": data.flip})
        pipeline.append({"type": "PackWithStudentImage" if two_sizes else "PackDetInputs"})
    else:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pipeline.append({"type": "PackDetInputs", "meta_keys": keys})
    return {
        "type": "CocoDataset",
        "ann_file": split.annotations,
        "data_prefix": {"img": split.images},
        "metainfo": {"classes": class_names(document)},
        "filter_cfg": {"filter_empty_gt": True, "min_size": 1} if training else None,
        "pipeline": pipeline,
        "test_mode": not training,
    }


def build_dataset(split: Split, data: Data, *, training: bool, masks: bool = False) -> Any:
    """An mmdet data set of a split, parsed now: see :func:`dataset_config`."""
    return built(dataset_config(split, data, training=training, masks=masks))


def built(config: Mapping[str, Any]) -> Any:
    """An mmdet data set by its config, with all its wrappers, parsed now."""
    register()
    with quiet():
        return DATASETS.build(copy.deepcopy(dict(config)))


def known_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of an innermost data set by its config: of its metainfo, or of its type's.

    Raises :class:`WrongUse` for a type that mmdet does not know.
    """
    register()
    kind = DATASETS.get(config["type"])
    if kind is None:
        raise WrongUse(f"{config['type']}: mmdet knows no such data set; is its module imported?")
    of_type = getattr(kind, "METAINFO", None) or {}
    return tuple((config.get("metainfo") or {}).get("classes") or of_type.get("classes") or ())


def metric_config(split: Split, *, masks: bool = False) -> dict[str, Any]:
    """COCO's box metrics of a split; ``masks``: of masks, too."""
    kinds = ["bbox", "segm"] if masks else ["bbox"]
    return {"type": "CocoMetric", "ann_file": split.annotations, "metric": kinds}


def build_metric(config: Mapping[str, Any], dataset: Any) -> Any:
    """mmdet's metric by its config, for the predictions on ``dataset``."""
    with quiet():
        metric = METRICS.build(copy.deepcopy(dict(config)))
    metric.dataset_meta = dataset.metainfo
    return metric


@FUNCTIONS.register_module()
def seeds_of_the_loader(worker_id: int) -> None:
    """A loader's process draws the random numbers that torch has seeded it with.

    Those follow from the training's seed and differ from epoch to epoch; mmengine's own seeds, of
    loaders whose processes end with the epoch, do not.
    """
