"""The options of the search space, as data: transforms, distances and weights by knowledge.

``DETKDS`` is Table 2 of DetKDS (ICML 2024) with two transforms of logits that Table 5 uses and
Table 2 lacks: ``softmax_c``, and ``norm_n``, which Table 5 prints as "norm_batch". Every slot also
has ``identity``, of which Table 2's ``scale_1`` and ``local_1`` are other names.
``EXTENDED`` adds what hand-made distillers need: ``kl_hw``, the distance of CWD (ICCV 2021);
``pearson_hw``, the correlation of each class over an image's positions; the
knowledge of CrossKD (CVPR 2024) with its ``quality_focal``; SSSD's ``label`` with its
``jensen_shannon``; MGD's ``mgd`` (ECCV 2022); and weights that change with the learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

IDENTITY = "identity"
ATTENTION = (IDENTITY, "satt", "catt", "mask")
SCALE = (IDENTITY, "scale_2", "scale_4", "local_2", "local_4")
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
#: Boxes of any prior compare by these, or by their bins' distributions (``kl``). FCOS's own loss,
#: -log IoU, is ``log_iou``.
CROSS_LOCALIZATION_DISTANCES = ("giou", "iou", "log_iou", "kl")

#: MGD's λ, the share of positions of the student's map that are hidden; ``identity`` hides none.
HIDDEN = (IDENTITY, "hide_25", "hide_45", "hide_65", "hide_85")

#: The units of a weight. A plain weight is multiplied with the loss. A share is the size of the
#: weighted term's gradient in the student's maps, in shares of the detection loss's.
PLAIN, SHARE = "plain", "share"
WEIGHTS = (0.1, 0.5, 1.0, 2.0, 5.0, 8.0, 10.0)
#: The weights of a search in shares, the same for all kinds of knowledge: ours, no paper's.
SHARES = (0.03, 0.1, 0.3, 1.0, 3.0)
#: SSSD's weights are larger, since its distance is bounded and small.
LABEL_WEIGHTS = (1.0, 2.0, 5.0, 8.0, 10.0, 15.0, 20.0)

CONSTANT, STEPWISE = "constant", "stepwise"
#: What a ``stepwise`` weight is multiplied by unless its term says otherwise.
STEP = 2.0

#: Other names of a slot's choices: Table 2 lists ``scale_1`` and ``local_1``, Table 5 prints them,
#: and both change nothing. A term may be written with them; the space holds each function once.
ALIASES: dict[tuple[str, ...], dict[str, str]] = {SCALE: {"scale_1": IDENTITY, "local_1": IDENTITY}}


@dataclass(frozen=True)
class KnowledgeOptions:
    """What one kind of knowledge may be combined with."""

    #: The choices of each transform slot, in the order in which the transforms are applied.
    transforms: tuple[tuple[str, ...], ...]
    #: The choices of the distance.
    distances: tuple[str, ...]
    #: The choices of the weight.
    weights: tuple[float, ...] = WEIGHTS
    #: The unit of these weights.
    unit: str = PLAIN
    #: The choices of the weight's schedule.
    schedules: tuple[str, ...] = (CONSTANT,)
    #: The name of each transform slot, for listings.
    slot_names: tuple[str, ...] = ("transform",)
    #: Whether a teacher gives the knowledge. SSSD's comes from the labels.
    teacher: bool = True
    #: Whether a search that names no kinds of knowledge has a stage for this kind.
    default: bool = True

    @property
    def optional(self) -> bool:
        """Whether a term has a choice besides its weight."""
        slots = (*self.transforms, self.distances, self.schedules)
        return any(len(slot) > 1 for slot in slots)

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

_MORE_DISTANCES = {
    _FEATURES.distances: (*FEATURE_DISTANCES, "kl_hw", "jensen_shannon"),
    LOGITS_DISTANCES: (*LOGITS_DISTANCES, "pearson_hw", "jensen_shannon", "quality_focal"),
}


def _more(options: KnowledgeOptions) -> KnowledgeOptions:
    distances = _MORE_DISTANCES.get(options.distances, options.distances)
    return replace(options, distances=distances, schedules=(CONSTANT, STEPWISE))


#: Everything a term may be made of. The names of all kinds of knowledge are written here, once.
EXTENDED: dict[str, KnowledgeOptions] = {
    knowledge: _more(options)
    for knowledge, options in {
        **DETKDS,
        "cross_logits": KnowledgeOptions((POSITIONS,), LOGITS_DISTANCES, slot_names=("hand over",)),
        "cross_localization": KnowledgeOptions(
            (POSITIONS,), CROSS_LOCALIZATION_DISTANCES, slot_names=("hand over",)
        ),
        "label": replace(_FEATURES, weights=LABEL_WEIGHTS, teacher=False),
        "mgd": KnowledgeOptions((HIDDEN,), ("l2",), slot_names=("mask",)),
        "fgbg_area": replace(_FEATURES, default=False),
    }.items()
}

PRESETS: dict[str, dict[str, KnowledgeOptions]] = {"detkds": DETKDS, "extended": EXTENDED}

#: The kinds of knowledge, in the order in which a distiller's terms stand.
KNOWLEDGE = tuple(EXTENDED)
