"""mmdet's detectors: building them, their checkpoints, and reading their knowledge by hooks."""

from . import operators

operators.install()  # before any import of mmdet, which imports mmcv.ops

from .assigned import places_of  # noqa: E402
from .build import (  # noqa: E402
    Signature,
    build_detector,
    class_options,
    config_path,
    configured,
    custom_imports,
    has_masks,
    model_config,
    num_classes,
    register,
    signature,
    whole_config,
    without_pretrained,
)
from .checkpoints import load_checkpoint, load_weights  # noqa: E402
from .cross_head import CrossHead, DensePredictions, HeadLayers  # noqa: E402
from .downloads import local_file  # noqa: E402
from .families import dense_head  # noqa: E402
from .inherit import inherit  # noqa: E402
from .maps import copy_samples, feature_maps, head_of_maps, loss_of_maps  # noqa: E402
from .memory import TeacherMemory  # noqa: E402
from .paa import use_float64_in_paa  # noqa: E402
from .responses import Levels, Read, Regions, Responses, to_float32  # noqa: E402
from .taps import Knowledge, Tap, teacher_knowledge  # noqa: E402
from .user_code import named_code, user_code  # noqa: E402

__all__ = [
    "CrossHead",
    "DensePredictions",
    "HeadLayers",
    "Knowledge",
    "Levels",
    "Read",
    "Regions",
    "Responses",
    "Signature",
    "Tap",
    "TeacherMemory",
    "build_detector",
    "class_options",
    "config_path",
    "configured",
    "copy_samples",
    "custom_imports",
    "dense_head",
    "feature_maps",
    "has_masks",
    "head_of_maps",
    "inherit",
    "load_checkpoint",
    "load_weights",
    "local_file",
    "loss_of_maps",
    "model_config",
    "named_code",
    "num_classes",
    "places_of",
    "register",
    "signature",
    "teacher_knowledge",
    "to_float32",
    "use_float64_in_paa",
    "user_code",
    "whole_config",
    "without_pretrained",
]
