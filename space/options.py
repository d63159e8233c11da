"""The options of the search space, as data: what each kind of knowledge may be put through.

``DETKDS`` is Table 2 of DetKDS (ICML 2024), with what its Table 5 uses besides (``softmax_c`` and
``norm_n``, printed there as "norm_batch", for logits); ``identity`` stands in every slot.
``EXTENDED`` adds what hand-made distillers need: ``kl_hw``, the distance of CWD (ICCV 2021); the
knowledge of CrossKD (CVPR 2024) with its ``quality_focal``; SSSD's ``label`` with its
``jensen_shannon``; and weights that change with the learning rate.
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

#: After which layer of the head CrossKD hands over, the paper's i; ``identity``: the default one.
POSITIONS = (IDENTITY, "after_0", "after_1", "after_2", "after_3", "after_4", "after_5")
#: Boxes of any prior compare by these, or by their bins' distributions (``kl``).
CROSS_LOCALIZATION_DISTANCES = ("giou", "iou", "kl")

WEIGHTS = (0.1, 0.5, 1.0, 2.0, 5.0, 8.0, 10.0)
#: SSSD's are larger: its distance is bounded and small.
LABEL_WEIGHTS = (1.0, 2.0, 5.0, 8.0, 10.0, 15.0, 20.0)

CONSTANT, STEPWISE = "constant", "stepwise"


@dataclass(frozen=True)
class KnowledgeOptions:
    """What one kind of knowledge may be combined with: a tuple of choices per slot.

    ``slot_names``: what the transform slots are called in listings.
    """

    transforms: tuple[tuple[str, ...], ...]
    distances: tuple[str, ...]
    weights: tuple[float, ...] = WEIGHTS
    schedules: tuple[str, ...] = (CONSTANT,)
    slot_names: tuple[str, ...] = ("transform",)

    def __len__(self) -> int:
        size = len(self.distances) * len(self.weights) * len(self.schedules)
        for slot in self.transforms:
            size *= len(slot)
        return size


_FEATURES = KnowledgeOptions(
    (ATTENTION, SCALE, NORMALISE), FEATURE_DISTANCES, slot_names=("transform",) * 3
)

DETKDS: dict[str, KnowledgeOptions] = {
    "global": _FEATURES,
    "fgbg": _FEATURES,
    "instance": _FEATURES,
    "logits": KnowledgeOptions((LOGITS_TRANSFORMS,), LOGITS_DISTANCES),
    "localization": KnowledgeOptions((LOCALIZATION_TRANSFORMS,), LOCALIZATION_DISTANCES),
}

_MORE_FEATURES = replace(_FEATURES, distances=(*FEATURE_DISTANCES, "kl_hw", "jensen_shannon"))
_MORE_LOGITS = (*LOGITS_DISTANCES, "jensen_shannon", "quality_focal")

#: Everything a term may be made of.
EXTENDED: dict[str, KnowledgeOptions] = {
    knowledge: replace(options, schedules=(CONSTANT, STEPWISE))
    for knowledge, options in {
        **dict.fromkeys(("global", "fgbg", "instance"), _MORE_FEATURES),
        "logits": replace(DETKDS["logits"], distances=_MORE_LOGITS),
        "localization": DETKDS["localization"],
        "cross_logits": KnowledgeOptions((POSITIONS,), _MORE_LOGITS, slot_names=("hand over",)),
        "cross_localization": KnowledgeOptions(
            (POSITIONS,), CROSS_LOCALIZATION_DISTANCES, slot_names=("hand over",)
        ),
        "label": replace(_MORE_FEATURES, weights=LABEL_WEIGHTS),
    }.items()
}

PRESETS: dict[str, dict[str, KnowledgeOptions]] = {"detkds": DETKDS, "extended": EXTENDED}

FEATURE_KNOWLEDGE = ("global", "fgbg", "instance")
RESPONSE_KNOWLEDGE = ("logits", "localization")
CROSS_KNOWLEDGE = ("cross_logits", "cross_localization")
LABEL = "label"
KNOWLEDGE = (*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE, *CROSS_KNOWLEDGE, LABEL)
