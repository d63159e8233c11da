"""What a distiller does: transforms, distances, a class for each kind of knowledge, the loss, and
``DistilledDetector`` for mmdet."""

from .detector import DistilledDetector
from .distances import BOX_DISTANCES, DISTANCES
from .hooks import DistillationHook
from .kinds import (
    KINDS,
    available_knowledge,
    check_pair,
    excluded,
    mismatch,
    possible_needs,
)
from .loss import DistillationLoss
from .observe import FrozenTeacher, Needs, Observation, observe
from .pairing import Pair, pair_levels
from .transforms import FEATURE_TRANSFORMS, RESPONSE_TRANSFORMS

__all__ = [
    "BOX_DISTANCES",
    "DISTANCES",
    "FEATURE_TRANSFORMS",
    "KINDS",
    "RESPONSE_TRANSFORMS",
    "DistillationHook",
    "DistillationLoss",
    "DistilledDetector",
    "FrozenTeacher",
    "Needs",
    "Observation",
    "Pair",
    "available_knowledge",
    "check_pair",
    "excluded",
    "mismatch",
    "observe",
    "pair_levels",
    "possible_needs",
]
