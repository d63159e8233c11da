"""mmdet datasets over COCO-format files; each image is decoded and resized once for each size."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..detectors import register  # first: it makes mmcv.ops importable, which mmdet imports

# isort: split
import mmcv
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.registry import TRANSFORMS
from torch.utils.data import get_worker_info

from ..settings import Data, Split
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
    is kept. Up to ``megabytes`` of pixels are kept, each size of an image apart; images beyond the
    limit are transformed every time. A data loader's worker process keeps nothing, since its memory
    ends with the epoch.
    """

    def __init__(
        self, transforms: list[dict[str, Any]], sizes: list[tuple[int, int]], megabytes: int
    ) -> None:
        self.load = [TRANSFORMS.build(transform) for transform in transforms]
        self.resize = [
            TRANSFORMS.build({"type": "Resize", "scale": tuple(size), "keep_ratio": True})
            for size in sizes
        ]
        self.free = megabytes * 2**20
        self.known: dict[tuple[str, int], dict[str, Any]] = {}

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        # A single size takes no random number.
        size = np.random.randint(len(self.resize)) if len(self.resize) > 1 else 0
        key = results["img_path"], size
        if key in self.known:
            return _copy(self.known[key])
        loaded = results
        for transform in (*self.load, self.resize[size]):
            loaded = transform(loaded)
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


def build_dataset(split: Split, data: Data, *, training: bool, masks: bool = False) -> CocoDataset:
    """An mmdet ``CocoDataset`` of a split with all classes of its file, parsed now.

    A training set has images of ``data.train_sizes``, flips them with probability ``data.flip`` and
    leaves out images without boxes, as mmdet does. Other sets have all images, of
    ``data.image_size``. The aspect ratio is kept. If a teacher sees larger images than the student,
    the data samples of a training set hold the student's, ``student_image`` (3, H, W): pixel by
    pixel the image that a set for testing has. ``masks``: with the objects' outlines, for detectors
    with a mask head.
    """
    register()
    document = json.loads(Path(split.annotations).read_text("utf-8"))
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
    with quiet():
        return CocoDataset(
            ann_file=split.annotations,
            data_prefix={"img": split.images},
            metainfo={"classes": class_names(document)},
            filter_cfg={"filter_empty_gt": True, "min_size": 1} if training else None,
            pipeline=pipeline,
            test_mode=not training,
        )


def build_metric(split: Split, dataset: CocoDataset, *, masks: bool = False) -> CocoMetric:
    """COCO's box metrics of the split that ``dataset`` was built from; ``masks``: of masks, too."""
    with quiet():
        metric = CocoMetric(
            ann_file=split.annotations, metric=["bbox", "segm"] if masks else ["bbox"]
        )
    metric.dataset_meta = dataset.metainfo
    return metric
