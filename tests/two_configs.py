"""A user's mmdet config: a stock one, whole, with a thin detector and small real files in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detkds.data import ShapesFiles
from detkds.data.synthetic import CLASSES
from detkds.detectors import build_detector, whole_config
from mmengine.config import Config
from thin_detectors import STOCK, thin_config

LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
RESIZE = {"type": "Resize", "scale": (64, 64), "keep_ratio": True}
FLIP, PACK = {"type": "RandomFlip", "prob": 0.5}, {"type": "PackDetInputs"}
#: The same image and boxes every time, but for a flip.
FIXED = [*LOAD, RESIZE, FLIP, PACK]
#: Another image every time.
AUGMENTED = [
    *LOAD,
    {"type": "RandomResize", "scale": (64, 64), "ratio_range": (0.8, 1.5), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (56, 56)},
    {"type": "PhotoMetricDistortion"},
    *(FLIP, PACK),
]
#: What follows a mosaic and a mixup.
MIXED = [
    {"type": "Mosaic", "img_scale": (64, 64), "pad_val": 114.0},
    {"type": "RandomAffine", "scaling_ratio_range": (0.5, 1.5), "border": (-32, -32)},
    {"type": "MixUp", "img_scale": (64, 64), "pad_val": 114.0},
    *(FLIP, PACK),
]

#: RTMDet's mosaic and mixup, which take their other images from those seen before.
REMIXED = [
    *LOAD,
    {"type": "CachedMosaic", "img_scale": (64, 64), "pad_val": 114.0, "max_cached_images": 8},
    {"type": "RandomResize", "scale": (128, 128), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (64, 64)},
    {"type": "YOLOXHSVRandomAug"},
    FLIP,
    {"type": "Pad", "size": (64, 64), "pad_val": {"img": (114, 114, 114)}},
    {
        "type": "CachedMixUp",
        "img_scale": (64, 64),
        "ratio_range": (1.0, 1.0),
        "max_cached_images": 8,
        "pad_val": (114, 114, 114),
    },
    PACK,
]


def shapes_set(files: ShapesFiles, name: str, pipeline: list, **own: Any) -> dict[str, Any]:
    """The config of a split of the synthetic set as an mmdet data set, with a root of its own."""
    return {
        "type": "CocoDataset",
        "data_root": str(files.images.parent),
        "ann_file": f"{name}.json",
        "data_prefix": {"img": files.images.name + "/"},
        "metainfo": {"classes": CLASSES},
        "pipeline": pipeline,
        **own,
    }


def mosaic_set(files: ShapesFiles) -> dict[str, Any]:
    """The training split under a mosaic and a mixup."""
    return {
        "type": "MultiImageMixDataset",
        "dataset": shapes_set(files, "train", LOAD),
        "pipeline": MIXED,
    }


def user_config(
    folder: Path,
    files: ShapesFiles,
    train: dict[str, Any] | None = None,
    *,
    family: str = "retinanet",
    name: str = "my_student.py",
    **options: Any,
) -> Path:
    """Write a stock config of a family with a thin detector; ``train``: its training set.

    ``options`` are merged in, by paths; None takes a part out.
    """
    config = whole_config(STOCK[family])
    config.model = thin_config(family, **{"model.test_cfg.score_thr": 0.0})
    config.train_dataloader.dataset = train or shapes_set(files, "train", AUGMENTED)
    val = [*LOAD[:1], RESIZE, LOAD[1], config.test_pipeline[-1]]
    config.val_dataloader.dataset = shapes_set(files, "test", val, test_mode=True)
    config.val_evaluator.ann_file = str(files.test)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.num_workers, loader.batch_size = 0, 4
    config.train_cfg.max_epochs = 2
    for key, value in options.items():
        if value is None:
            config.pop(key)
        else:
            config.merge_from_dict({key: value})
    Config(config.to_dict()).dump(folder / name)
    return folder / name


def weights_of(config: Path, file: Path) -> Path:
    """Random weights of a config's model, saved."""
    torch.manual_seed(1)
    model = build_detector(whole_config(str(config)).model)
    model.init_weights()
    torch.save({"state_dict": model.state_dict()}, file)
    return file
