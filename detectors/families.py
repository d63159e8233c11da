"""Families of heads: tables that say how detkds reads each head of mmdet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Unreadable(Exception):
    """detkds can't read a detector's head.

    The message says why. It is a predicate whose subject is the detector's name: "has the
    FoveaHead, whose responses detkds does not read".
    """


@dataclass(frozen=True)
class DenseFamily:
    """How detkds reads a dense head: a head that predicts at every position of its maps."""

    #: What the head's regression channels hold:
    #:
    #: - ``deltas``: a box relative to its anchor, in the code of :data:`DELTAS`.
    #: - ``distances``: the distances from a point to the left, top, right and bottom side of a box.
    #:   They are in pixels; with ``norm_on_bbox`` they are in strides in training.
    #: - ``pixels``: the same distances, always in pixels.
    #: - ``distribution``: for each side the logits of a distribution over distances in strides.
    #:   ``head.integral`` takes the mean.
    #: - ``points``: points around an object. ``head.points2bbox`` takes the box around the points.
    regression: str
    #: Place of the labels in the tuple that ``assign_method`` returns. None for a head that weighs
    #: its priors in another way and gives no labels to them.
    labels: int | None
    #: Place of the labels' weights in the same tuple: 0 for a prior that the head's loss ignores.
    #: None for a head that ignores no prior.
    label_weights: int | None = None
    #: The head's method that assigns labels to priors. The loss calls it once, and it returns one
    #: tensor per level; or the loss calls it once per image, and it returns all levels in a row.
    assign_method: str = "get_targets"
    #: In training the head regresses every box twice: a first box and a refined box.
    refined: bool = False


@dataclass(frozen=True)
class RegionFamily:
    """How detkds reads a RoI head: a head that predicts for regions."""

    #: The head has several stages. detkds reads the first stage, which trains on the RPN's regions.
    cascade: bool = False
    #: The head may have a semantic branch, whose map the box head reads as well.
    semantic: bool = False


_ANCHORS = DenseFamily("deltas", labels=0, label_weights=1)
_POINTS = DenseFamily("distances", labels=0)
_BINS = DenseFamily("distribution", labels=1, label_weights=2)
_PIXELS = DenseFamily("pixels", labels=1, label_weights=2)

#: The family of a dense head, by the name of the head's class. A subclass belongs to the family of
#: its nearest ancestor, unless it overrides one of :data:`METHODS_READ` or the ``assign_method``.
DENSE: dict[str, DenseFamily] = {
    "AnchorHead": _ANCHORS,
    "RetinaHead": _ANCHORS,
    "RetinaSepBNHead": _ANCHORS,
    "PISARetinaHead": _ANCHORS,
    "SSDHead": _ANCHORS,
    "PISASSDHead": _ANCHORS,
    # The loss takes a bag of anchors for each object and gives no label to an anchor.
    "FreeAnchorRetinaHead": DenseFamily("deltas", labels=None),
    "ATSSHead": DenseFamily("deltas", labels=1, label_weights=2),
    "PAAHead": DenseFamily("deltas", labels=0, label_weights=1, assign_method="paa_reassign"),
    "LADHead": DenseFamily("deltas", labels=None),  # the labels come from LAD's own teacher
    # The head assigns twice, for classes and for boxes; detkds reads the labels for boxes.
    "DDODHead": DenseFamily("deltas", labels=1, label_weights=2, assign_method="get_reg_targets"),
    "GFLHead": _BINS,
    "LDHead": _BINS,
    "FCOSHead": _POINTS,
    "CondInstBboxHead": _POINTS,
    # The loss weighs every point in a box and gives no label to a point.
    "AutoAssignHead": DenseFamily("pixels", labels=None),
    "VFNetHead": DenseFamily("pixels", labels=0, label_weights=1, refined=True),
    "RTMDetHead": _PIXELS,
    "RTMDetSepBNHead": _PIXELS,
    "RepPointsHead": DenseFamily("points", labels=0, label_weights=1, refined=True),
}

#: Why detkds reads no responses of a detector that has no head at all.
NO_HEAD = "has no head whose responses detkds reads"
#: The methods of a dense head that detkds relies on, besides the family's ``assign_method``.
METHODS_READ = ("forward", "forward_single", "loss", "loss_by_feat")

#: The family of a RoI head, by the name of the class that defines the head's ``_bbox_forward``.
REGION: dict[str, RegionFamily] = {
    "StandardRoIHead": RegionFamily(),
    "CascadeRoIHead": RegionFamily(cascade=True),
    "HybridTaskCascadeRoIHead": RegionFamily(cascade=True, semantic=True),
}

#: The class of detectors whose maps are the memory of a transformer's encoder, which the decoder
#: reads (DETR and its successors). The maps of all other detectors are the neck's.
ENCODER_DETECTOR = "DetectionTransformer"
#: The box coder whose deltas detkds reads.
DELTAS = "DeltaXYWHBBoxCoder"


def dense_family(head: Any) -> DenseFamily:
    """The family of a head that :func:`dense_head` returns."""
    family = _find_dense_family(head)
    assert family is not None
    return family


def _find_dense_family(head: Any) -> DenseFamily | None:
    """The family of a dense head, or None if detkds does not read the head's responses."""
    found = _ancestor_in_dense(head)
    if found is None or found[1]:
        return None
    family = DENSE[found[0].__name__]
    readable = family.regression != "deltas" or _is_a(head.bbox_coder, DELTAS)
    return family if readable else None


def _ancestor_in_dense(head: Any) -> tuple[type, list[str]] | None:
    """The head's nearest ancestor in :data:`DENSE`, and the methods read that the head overrides.

    The head's own class counts as an ancestor. None if no ancestor is in the table.
    """
    overridden: set[str] = set()
    for ancestor in type(head).__mro__:
        family = DENSE.get(ancestor.__name__)
        if family is not None:
            methods = (*METHODS_READ, family.assign_method)
            return ancestor, [name for name in methods if name in overridden]
        overridden |= vars(ancestor).keys()
    return None


def check_readable(model: Any) -> None:
    """Raise :class:`Unreadable` if detkds does not read the responses of the model's head."""
    if dense_head(model) is not None or region_head(model) is not None:
        return
    head = getattr(model, "bbox_head", None) or getattr(model, "roi_head", None)
    if head is None:
        raise Unreadable(NO_HEAD)
    name, found = type(head).__name__, _ancestor_in_dense(head)
    if found is not None and found[1]:
        ancestor, methods = found
        raise Unreadable(
            f"has the {name}, which changes {' and '.join(methods)} of {ancestor.__name__}"
        )
    if found is not None or _find_region_family(head) is not None:
        raise Unreadable(f"has the {name}, whose boxes are not coded by {DELTAS}")
    raise Unreadable(f"has the {name}, whose responses detkds does not read")


def region_family(head: Any) -> RegionFamily:
    """The family of a head that :func:`region_head` returns."""
    family = _find_region_family(head)
    assert family is not None
    return family


def _find_region_family(head: Any) -> RegionFamily | None:
    """The family of a RoI head, or None if detkds does not read the head's responses."""
    for ancestor in type(head).__mro__:
        if "_bbox_forward" in vars(ancestor):
            return REGION.get(ancestor.__name__)
    return None


def dense_head(model: Any) -> Any:
    """The dense head of a detector; None if the detector has none whose responses detkds reads."""
    head = getattr(model, "bbox_head", None)
    return head if head is not None and _find_dense_family(head) is not None else None


def region_head(model: Any) -> Any:
    """The RoI head of a detector; None if the detector has none whose responses detkds reads."""
    head = getattr(model, "roi_head", None)
    if head is None or _find_region_family(head) is None:
        return None
    return head if _is_a(first_stage(head)[1].bbox_coder, DELTAS) else None


def first_stage(head: Any) -> tuple[Any, Any]:
    """The RoI extractor and the box head that a RoI head uses for the RPN's regions."""
    if region_family(head).cascade:
        return head.bbox_roi_extractor[0], head.bbox_head[0]
    return head.bbox_roi_extractor, head.bbox_head


def has_encoder_maps(model: Any) -> bool:
    """Whether a detector's maps are the memory of its encoder, not the neck's maps."""
    return _is_a(model, ENCODER_DETECTOR)


def _is_a(part: Any, class_name: str) -> bool:
    """As ``isinstance``, for a class of mmdet that need not be imported."""
    return any(ancestor.__name__ == class_name for ancestor in type(part).__mro__)


def head_strides(model: Any) -> tuple[int, ...] | None:
    """Strides of the levels that a detector's head (or RPN) reads; None if the head names none."""
    generator = _prior_generator(model)
    if generator is None:
        return None
    strides = (s[0] if isinstance(s, tuple | list) else s for s in generator.strides)
    return tuple(round(stride) for stride in strides)  # YOLACT's strides are fractions


def fixed_image_size(model: Any) -> int | None:
    """The side in pixels of the images that a head is built for (SSD); None for any size."""
    return getattr(_prior_generator(model), "input_size", None)


def _prior_generator(model: Any) -> Any:
    reader = getattr(model, "bbox_head", None) or getattr(model, "rpn_head", None)
    return getattr(reader, "prior_generator", None)
