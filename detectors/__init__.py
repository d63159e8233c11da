"""mmdet made easy to hold: build, checkpoints, taps, families, and mmcv's operators."""

from .build import (
    Signature,
    build_detector,
    config_path,
    model_config,
    num_classes,
    register,
    signature,
    without_pretrained,
)
from .checkpoints import load_checkpoint, load_weights
from .taps import Knowledge, Tap, teacher_knowledge

__all__ = [
    "Knowledge",
    "Signature",
    "Tap",
    "build_detector",
    "config_path",
    "load_checkpoint",
    "load_weights",
    "model_config",
    "num_classes",
    "register",
    "signature",
    "teacher_knowledge",
    "without_pretrained",
]
