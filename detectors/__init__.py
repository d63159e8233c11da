"""mmdet made easy to hold: build, checkpoints, taps, families, and mmcv's operators."""

from . import operators

operators.install()  # mmdet imports mmcv.ops

from .build import (  # noqa: E402
    Signature,
    build_detector,
    config_path,
    custom_imports,
    has_masks,
    model_config,
    num_classes,
    register,
    signature,
    without_pretrained,
)
from .checkpoints import load_checkpoint, load_weights  # noqa: E402
from .cross_head import Answers, CrossHead, HeadLayers, full  # noqa: E402
from .families import dense_head  # noqa: E402
from .inherit import inherit  # noqa: E402
from .maps import again, feature_maps, loss_of_maps  # noqa: E402
from .memory import TeacherMemory  # noqa: E402
from .paa import use_float64_in_paa  # noqa: E402
from .responses import Levels, Regions, Responses  # noqa: E402
from .taps import Knowledge, Tap, teacher_knowledge  # noqa: E402

__all__ = [
    "Answers",
    "CrossHead",
    "HeadLayers",
    "Knowledge",
    "Levels",
    "Regions",
    "Responses",
    "Signature",
    "Tap",
    "TeacherMemory",
    "again",
    "build_detector",
    "config_path",
    "custom_imports",
    "dense_head",
    "feature_maps",
    "full",
    "has_masks",
    "inherit",
    "load_checkpoint",
    "load_weights",
    "loss_of_maps",
    "model_config",
    "num_classes",
    "register",
    "signature",
    "teacher_knowledge",
    "use_float64_in_paa",
    "without_pretrained",
]
