"""What a distiller does: transforms, distances, the loss, and ``DistilledDetector`` for mmdet."""

from .detector import DistilledDetector, Renormalise, boxes_of, shrunk
from .distances import BOX_DISTANCES, DISTANCES
from .hooks import DistillationHook
from .loss import DistillationLoss
from .pairing import (
    available_knowledge,
    check_pair,
    common_strides,
    excluded,
    label_fault,
    mismatch,
    pair_levels,
)
from .transforms import FEATURE_TRANSFORMS, RESPONSE_TRANSFORMS

__all__ = [
    "BOX_DISTANCES",
    "DISTANCES",
    "FEATURE_TRANSFORMS",
    "RESPONSE_TRANSFORMS",
    "DistillationHook",
    "DistillationLoss",
    "DistilledDetector",
    "Renormalise",
    "available_knowledge",
    "boxes_of",
    "check_pair",
    "common_strides",
    "excluded",
    "label_fault",
    "mismatch",
    "pair_levels",
    "shrunk",
]
