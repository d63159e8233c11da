"""mmdet datasets over COCO-format files, their images decoded and resized once."""

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
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import TRANSFORMS
from torch.utils.data import get_worker_info

from .coco import class_names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """pycocotools prints its steps to standard output; a worker's is nobody's to read."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        yield


@TRANSFORMS.register_module()
class CachedTransforms(BaseTransform):
    """Applies transforms that give the same result every time once per image, and remembers.

    Up to ``megabytes`` of pixels are kept; images beyond that are transformed anew each time, and
    all of them in a data loader's worker process, whose memory ends with the epoch.
    """

    def __init__(self, transforms: list[dict[str, Any]], megabytes: int) -> None:
        self.transforms = [TRANSFORMS.build(transform) for transform in transforms]
        self.free = megabytes * 2**20
        self.known: dict[str, dict[str, Any]] = {}

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["img_path"]
        if path in self.known:
            return _copy(self.known[path])
        loaded = results
        for transform in self.transforms:
            loaded = transform(loaded)
        if loaded["img"].nbytes <= self.free and get_worker_info() is None:
            self.free -= loaded["img"].nbytes
            self.known[path] = _copy(loaded)
        return loaded


def _copy(results: dict[str, Any]) -> dict[str, Any]:
    """A copy that later transforms may write to: arrays and boxes are their own."""
    return {
        key: value.copy()
        if isinstance(value, np.ndarray | dict)
        else value.clone()
        if hasattr(value, "clone")
        else value
        for key, value in results.items()
    }


def build_dataset(
    annotations: str | Path,
    images: str | Path,
    image_size: tuple[int, int],
    *,
    training: bool,
    flip: float = 0.5,
    masks: bool = False,
    cache_megabytes: int = 1024,
) -> CocoDataset:
    """An mmdet ``CocoDataset`` of all classes of the file, parsed now.

    ``image_size``: (width, height) the images are resized into, aspect ratio kept. Training sets
    flip with probability ``flip`` and leave out images without boxes, as mmdet does. ``masks``:
    with the objects' outlines, for training and scoring a detector with a mask head.
    """
    register()
    document = json.loads(Path(annotations).read_text("utf-8"))
    fixed = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks, "poly2mask": False},
        {"type": "Resize", "scale": tuple(image_size), "keep_ratio": True},
    ]
    pipeline: list[dict[str, Any]] = [
        {"type": "CachedTransforms", "transforms": fixed, "megabytes": cache_megabytes}
    ]
    if training:
        pipeline.append({"type": "RandomFlip", "prob": flip})
        pipeline.append({"type": "PackDetInputs"})
    else:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pipeline.append({"type": "PackDetInputs", "meta_keys": keys})
    with quiet():
        return CocoDataset(
            ann_file=str(annotations),
            data_prefix={"img": str(images)},
            metainfo={"classes": class_names(document)},
            filter_cfg={"filter_empty_gt": True, "min_size": 1} if training else None,
            pipeline=pipeline,
            test_mode=not training,
        )


def build_metric(
    annotations: str | Path, dataset: CocoDataset, *, masks: bool = False
) -> CocoMetric:
    """COCO's box metrics, and mask metrics if asked for, on the images of ``dataset``."""
    with quiet():
        metric = CocoMetric(
            ann_file=str(annotations), metric=["bbox", "segm"] if masks else ["bbox"]
        )
    metric.dataset_meta = dataset.metainfo
    return metric
