"""What a distiller does: transforms, distances, a class for each kind of knowledge, the loss, and
``DistilledDetector`` for mmdet."""

from .box_distances import BOX_DISTANCES
from .detector import DistilledDetector, signature_once
from .distances import MAP_DISTANCES
from .hooks import DistillationHook
from .kinds import (
    KINDS,
    available_knowledge,
    check_pair,
    excluded,
    mismatch,
)
from .loss import DistillationLoss
from .observe import FrozenTeacher, Needs, Observation, observe, student_view
from .pairing import Pair, pair_levels
from .response_transforms import RESHAPES, RESPONSE_TRANSFORMS
from .scores import SCORE_DISTANCES
from .transforms import FEATURE_TRANSFORMS

__all__ = [
    "BOX_DISTANCES",
    "FEATURE_TRANSFORMS",
    "KINDS",
    "MAP_DISTANCES",
    "RESHAPES",
    "RESPONSE_TRANSFORMS",
    "SCORE_DISTANCES",
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
    "signature_once",
    "student_view",
]
