"""Families of heads: tables of what differs in reading what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DenseFamily:
    """How the responses of a head that answers at every position are read.

    ``labels``: place of the assigned labels in what ``get_targets`` returns, a tensor per level.
    ``sides``: what the regression answers, ``deltas`` to an anchor, ``distances`` to the four sides
    (in strides in training with ``norm_on_bbox``, in pixels else), a ``distribution`` of strides
    that ``head.integral`` turns into such distances, or ``points`` that ``head.points2bbox``
    encloses.
    """

    labels: int
    sides: str


@dataclass(frozen=True)
class RegionFamily:
    """How a head that answers for regions (RoIs) is asked.

    ``cascade``: it has stages, of which the first is read: the one made for an RPN's regions.
    ``semantic``: it may want the map of its semantic branch.
    """

    cascade: bool = False
    semantic: bool = False


#: By the class that defines ``get_targets``: a subclass that assigns in its own way is no member.
DENSE: dict[str, DenseFamily] = {
    "AnchorHead": DenseFamily(labels=0, sides="deltas"),
    "ATSSHead": DenseFamily(labels=1, sides="deltas"),
    "GFLHead": DenseFamily(labels=1, sides="distribution"),
    "FCOSHead": DenseFamily(labels=0, sides="distances"),
    "RepPointsHead": DenseFamily(labels=0, sides="points"),
}

#: By the class that defines ``_bbox_forward``.
REGION: dict[str, RegionFamily] = {
    "StandardRoIHead": RegionFamily(),
    "CascadeRoIHead": RegionFamily(cascade=True),
    "HybridTaskCascadeRoIHead": RegionFamily(cascade=True, semantic=True),
}

#: Detectors whose maps are read off the transformer's encoder, DETR's multi-scale memory: what
#: their decoder looks at; all others' off the neck.
ENCODED = "DetectionTransformer"


def dense_family(head: Any) -> DenseFamily | None:
    """The family of a dense head, or None if its responses are not read."""
    return _lookup(head, "get_targets", DENSE)


def region_family(head: Any) -> RegionFamily | None:
    """The family of a RoI head, or None if its responses are not read."""
    return _lookup(head, "_bbox_forward", REGION)


def _lookup(head: Any, method: str, table: dict[str, Any]) -> Any:
    for ancestor in type(head).__mro__:
        if method in vars(ancestor):
            return table.get(ancestor.__name__)
    return None


def dense_head(model: Any) -> Any:
    """The one-stage head of a detector, if it has one whose responses are read."""
    head = getattr(model, "bbox_head", None)
    return head if head is not None and dense_family(head) is not None else None


def region_head(model: Any) -> Any:
    """The RoI head of a detector, if it has one whose responses are read."""
    head = getattr(model, "roi_head", None)
    return head if head is not None and region_family(head) is not None else None


def first_stage(head: Any) -> tuple[Any, Any]:
    """The RoI extractor and the box head of a RoI head that read an RPN's regions."""
    family = region_family(head)
    assert family is not None
    if family.cascade:
        return head.bbox_roi_extractor[0], head.bbox_head[0]
    return head.bbox_roi_extractor, head.bbox_head


def encodes(model: Any) -> bool:
    """Whether a detector's maps are its encoder's."""
    return any(ancestor.__name__ == ENCODED for ancestor in type(model).__mro__)


def levels_read(model: Any) -> tuple[int, ...] | None:
    """Strides of the levels that a detector's head (or RPN) reads, if it says so."""
    reader = dense_head(model) or getattr(model, "rpn_head", None)
    generator = getattr(reader, "prior_generator", None)
    if generator is None:
        return None
    return tuple(s[0] if isinstance(s, tuple | list) else s for s in generator.strides)
