"""The options of the search space, as data: what each kind of knowledge may be put through.

``DETKDS`` is Table 2 of DetKDS (ICML 2024), with what its Table 5 uses besides (``softmax_c`` and
``norm_n``, printed there as "norm_batch", for logits); ``identity`` stands in every slot.
``EXTENDED`` adds what hand-made distillers need: ``kl_hw``, the distance of CWD (ICCV 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

IDENTITY = "identity"
ATTENTION = (IDENTITY, "satt", "catt", "mask")
SCALE = (IDENTITY, "scale_1", "scale_2", "scale_4", "local_1", "local_2", "local_4")
NORMALISE = (IDENTITY, "norm_hw", "norm_c", "norm_n", "min_max")

LOGITS_TRANSFORMS = (
    IDENTITY,
    "norm_n",
    "norm_c",
    "min_max",
    "reshape_n",
    "reshape_c",
    "softmax_c",
)
LOCALIZATION_TRANSFORMS = (IDENTITY, "softmax_n", "softmax_c", "pow2", "sigmoid")

FEATURE_DISTANCES = ("l1", "l2", "smooth_l1", "kl", "cosine", "pearson", "ssim")
LOGITS_DISTANCES = ("l1", "l2", "smooth_l1", "kl", "cosine", "pearson", "correlation")
LOCALIZATION_DISTANCES = ("iou", "giou", "diou", "ciou", "eiou")

WEIGHTS = (0.1, 0.5, 1.0, 2.0, 5.0, 8.0, 10.0)


@dataclass(frozen=True)
class KnowledgeOptions:
    """What one kind of knowledge may be combined with: a tuple of choices per slot."""

    transforms: tuple[tuple[str, ...], ...]
    distances: tuple[str, ...]
    weights: tuple[float, ...] = WEIGHTS

    def __len__(self) -> int:
        size = len(self.distances) * len(self.weights)
        for slot in self.transforms:
            size *= len(slot)
        return size


_FEATURES = KnowledgeOptions((ATTENTION, SCALE, NORMALISE), FEATURE_DISTANCES)
_EXTENDED_FEATURES = replace(_FEATURES, distances=(*FEATURE_DISTANCES, "kl_hw"))

DETKDS: dict[str, KnowledgeOptions] = {
    "global": _FEATURES,
    "fgbg": _FEATURES,
    "instance": _FEATURES,
    "logits": KnowledgeOptions((LOGITS_TRANSFORMS,), LOGITS_DISTANCES),
    "localization": KnowledgeOptions((LOCALIZATION_TRANSFORMS,), LOCALIZATION_DISTANCES),
}

#: Everything a term may be made of.
EXTENDED: dict[str, KnowledgeOptions] = {
    **DETKDS,
    **dict.fromkeys(("global", "fgbg", "instance"), _EXTENDED_FEATURES),
}

PRESETS: dict[str, dict[str, KnowledgeOptions]] = {"detkds": DETKDS, "extended": EXTENDED}

FEATURE_KNOWLEDGE = ("global", "fgbg", "instance")
RESPONSE_KNOWLEDGE = ("logits", "localization")
KNOWLEDGE = FEATURE_KNOWLEDGE + RESPONSE_KNOWLEDGE
