"""Families of heads: tables of what differs in reading what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DenseFamily:
    """How the responses of a head that answers at every position are read.

    ``sides``: what the regression answers, ``deltas`` to an anchor, ``distances`` to the four sides
    (in strides in training with ``norm_on_bbox``, in pixels else), ``pixels``, such distances in
    pixels always, a ``distribution`` of strides that ``head.integral`` turns into them, or
    ``points`` that ``head.points2bbox`` encloses.
    ``labels``: place of the labels in what ``assigns`` returns; None for a head that trains on
    weights of its own making, not on labels. ``assigns``: the method of which the loss takes them,
    a tensor per level from one call, or all levels of one image from a call for each.
    ``refined``: in training it answers the sides twice, at first and refined.
    """

    sides: str
    labels: int | None
    assigns: str = "get_targets"
    refined: bool = False


@dataclass(frozen=True)
class RegionFamily:
    """How a head that answers for regions (RoIs) is asked.

    ``cascade``: it has stages, of which the first is read: the one made for an RPN's regions.
    ``semantic``: it may want the map of its semantic branch.
    """

    cascade: bool = False
    semantic: bool = False


_ANCHORS = DenseFamily("deltas", labels=0)
_POINTS = DenseFamily("distances", labels=0)
_BINS = DenseFamily("distribution", labels=1)
_PIXELS = DenseFamily("pixels", labels=1)

#: By class. One that inherits from these is read alike unless it changes what :data:`READ` names.
DENSE: dict[str, DenseFamily] = {
    "AnchorHead": _ANCHORS,
    "RetinaHead": _ANCHORS,
    "RetinaSepBNHead": _ANCHORS,
    "PISARetinaHead": _ANCHORS,
    "SSDHead": _ANCHORS,
    "PISASSDHead": _ANCHORS,
    "FreeAnchorRetinaHead": DenseFamily("deltas", labels=None),  # bags of anchors
    "ATSSHead": DenseFamily("deltas", labels=1),
    "PAAHead": DenseFamily("deltas", labels=0, assigns="paa_reassign"),
    "LADHead": DenseFamily("deltas", labels=None),  # its own teacher's
    # It assigns twice, for classes and for boxes.
    "DDODHead": DenseFamily("deltas", labels=1, assigns="get_reg_targets"),
    "GFLHead": _BINS,
    "LDHead": _BINS,
    "FCOSHead": _POINTS,
    "CondInstBboxHead": _POINTS,
    "AutoAssignHead": DenseFamily("pixels", labels=None),  # every point in a box, weighted
    "VFNetHead": DenseFamily("pixels", labels=0, refined=True),
    "RTMDetHead": _PIXELS,
    "RTMDetSepBNHead": _PIXELS,
    "RepPointsHead": DenseFamily("points", labels=0, refined=True),
}

#: Why the responses of a detector without a head of these are not read.
NO_HEAD = "has no head whose responses detkds reads"
#: The methods of a head on which reading its responses relies, besides the one that assigns.
READ = ("forward", "forward_single", "loss", "loss_by_feat")

#: By the class that defines ``_bbox_forward``.
REGION: dict[str, RegionFamily] = {
    "StandardRoIHead": RegionFamily(),
    "CascadeRoIHead": RegionFamily(cascade=True),
    "HybridTaskCascadeRoIHead": RegionFamily(cascade=True, semantic=True),
}

#: Detectors whose maps are read off the transformer's encoder, DETR's multi-scale memory: what
#: their decoder looks at; all others' off the neck.
ENCODED = "DetectionTransformer"
#: What boxes must be coded by where they are read as deltas.
DELTAS = "DeltaXYWHBBoxCoder"


def dense_family(head: Any) -> DenseFamily | None:
    """The family of a dense head, or None if its responses are not read."""
    found = _ancestry(head)
    if found is None or found[1]:
        return None
    family = DENSE[found[0].__name__]
    coded = family.sides != "deltas" or _descends(head.bbox_coder, DELTAS)
    return family if coded else None


def _ancestry(head: Any) -> tuple[type, list[str]] | None:
    """The nearest ancestor whose responses are read, and what the head changes of it."""
    below: set[str] = set()
    for ancestor in type(head).__mro__:
        family = DENSE.get(ancestor.__name__)
        if family is not None:
            return ancestor, [name for name in (*READ, family.assigns) if name in below]
        below |= vars(ancestor).keys()
    return None


def unread(model: Any) -> str | None:
    """Why a detector's responses are not read, in words that follow its name; None if they are."""
    if dense_head(model) is not None or region_head(model) is not None:
        return None
    head = getattr(model, "bbox_head", None) or getattr(model, "roi_head", None)
    if head is None:
        return NO_HEAD
    name, found = type(head).__name__, _ancestry(head)
    if found is not None and found[1]:
        return f"has the {name}, which changes {' and '.join(found[1])} of {found[0].__name__}"
    if found is not None or region_family(head) is not None:
        return f"has the {name}, whose boxes are not coded by {DELTAS}"
    return f"has the {name}, whose responses detkds does not read"


def region_family(head: Any) -> RegionFamily | None:
    """The family of a RoI head, or None if its responses are not read."""
    for ancestor in type(head).__mro__:
        if "_bbox_forward" in vars(ancestor):
            return REGION.get(ancestor.__name__)
    return None


def dense_head(model: Any) -> Any:
    """The one-stage head of a detector, if it has one whose responses are read."""
    head = getattr(model, "bbox_head", None)
    return head if head is not None and dense_family(head) is not None else None


def region_head(model: Any) -> Any:
    """The RoI head of a detector, if it has one whose responses are read."""
    head = getattr(model, "roi_head", None)
    if head is None or region_family(head) is None:
        return None
    return head if _descends(first_stage(head)[1].bbox_coder, DELTAS) else None


def first_stage(head: Any) -> tuple[Any, Any]:
    """The RoI extractor and the box head of a RoI head that read an RPN's regions."""
    family = region_family(head)
    assert family is not None
    if family.cascade:
        return head.bbox_roi_extractor[0], head.bbox_head[0]
    return head.bbox_roi_extractor, head.bbox_head


def encodes(model: Any) -> bool:
    """Whether a detector's maps are its encoder's."""
    return _descends(model, ENCODED)


def _descends(part: Any, name: str) -> bool:
    return any(ancestor.__name__ == name for ancestor in type(part).__mro__)


def levels_read(model: Any) -> tuple[int, ...] | None:
    """Strides of the levels that a detector's head (or RPN) reads, if it says so."""
    generator = _generator(model)
    if generator is None:
        return None
    strides = (s[0] if isinstance(s, tuple | list) else s for s in generator.strides)
    return tuple(round(stride) for stride in strides)  # of a head made for one image, not whole


def image_size(model: Any) -> int | None:
    """The side, in pixels, of the one size of images that a head is made for (SSD's), if any."""
    return getattr(_generator(model), "input_size", None)


def _generator(model: Any) -> Any:
    reader = getattr(model, "bbox_head", None) or getattr(model, "rpn_head", None)
    return getattr(reader, "prior_generator", None)
