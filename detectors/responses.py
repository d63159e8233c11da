"""Responses: class scores and boxes of every family of heads, read into one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .families import (
    check_readable,
    dense_family,
    dense_head,
    first_stage,
    region_family,
    region_head,
)

#: One tensor for each level of a detector's maps, finest first.
Levels = tuple[Tensor, ...]

#: The numbers that shape a prior generator's anchors: base sizes in strides, and their factors.
ANCHOR_NUMBERS = ("sizes", "scales", "ratios")


@dataclass(frozen=True)
class Responses:
    """The form of a detector's responses. Two detectors' responses compare if their forms agree."""

    #: ``dense`` for a head that predicts at every position, ``region`` for a head that predicts for
    #: regions (RoIs).
    kind: str
    #: The number of classes, without background.
    classes: int
    #: Priors at each position, level by level; empty for regions.
    priors: tuple[int, ...]
    #: How logits become class scores, in words.
    scores: str
    #: What the distances to the four sides of a box are measured from and in, in words.
    boxes: str
    #: Why the head has no positives: a predicate whose subject is the detector's name. None for a
    #: head that labels its priors or regions.
    unlabelled: str | None = None


@dataclass(frozen=True)
class Regions:
    """The regions that a student's RoI head trains on in one batch."""

    #: (R, 5): the index of the image, then x1, y1, x2, y2 in pixels of the input.
    rois: Tensor
    #: (R,): the class assigned to each region; the number of classes stands for background.
    labels: Tensor
    #: The number of regions of each image; the regions of one image stand in a row.
    counts: tuple[int, ...]

    def by_image(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """Values of regions (R, ...) as (N, M, ...): the regions of each image, then padding.

        There is no padding if all images have equally many regions, as they mostly have.
        """
        return pad_sequence(list(values.split(self.counts)), True, padding)

    @property
    def counted(self) -> Tensor:
        """True for the regions of :meth:`by_image`, False for the padding: (N, M)."""
        return self.by_image(torch.ones_like(self.labels, dtype=torch.bool), False)


def responses_of(model: Any) -> Responses:
    """The form of a detector's responses.

    Raises :class:`Unreadable` if detkds does not read the responses of the detector's head.
    """
    check_readable(model)
    head = dense_head(model)
    if head is not None:
        priors = head.prior_generator.num_base_priors
        scores = "sigmoid" if head.use_sigmoid_cls else "softmax with background"
        return Responses(
            "dense",
            head.num_classes,
            tuple(priors),
            scores,
            _dense_boxes(head),
            _unlabelled(head),
        )
    box_head = first_stage(region_head(model))[1]
    boxes = "boxes in units of their regions"
    return Responses("region", box_head.num_classes, (), "softmax with background", boxes)


def _unlabelled(head: Any) -> str | None:
    if dense_family(head).labels is not None:
        return None
    return f"has the {type(head).__name__}, which assigns no label to its priors"


def _dense_boxes(head: Any) -> str:
    generator = head.prior_generator
    if dense_family(head).regression == "deltas":
        sizes = [
            base / min(stride)
            for base, stride in zip(generator.base_sizes, generator.strides, strict=True)
        ]
        parts = {"sizes": list(dict.fromkeys(sizes)), **vars(generator)}
        shapes = ", ".join(f"{name} {_rounded(parts[name])}" for name in ANCHOR_NUMBERS)
        return f"boxes in units of anchors of {shapes}"
    offset = getattr(generator, "center_offset", getattr(generator, "offset", 0))
    return f"distances in strides from {offset:g} of the cell"


def _rounded(values: Any) -> Any:
    """Two decimals of each number; the numbers are in a list, or in a list for each level (SSD)."""
    if isinstance(values, Tensor):
        values = values.tolist()
    return [_rounded(v) for v in values] if isinstance(values, list) else round(float(values), 2)


#: Makes distances (N, 4, M) of what a head regresses for M priors or regions, (N, R, M).
Read = Callable[[Tensor], Tensor]


def dense_responses(head: Any, outputs: tuple) -> tuple[Levels, Levels]:
    """Logits (N, K, H·W, A) of each level, and what the head regresses, (N, R, H·W, A).

    ``outputs``: the return value of the dense head's forward on maps (N, C, H, W). Nothing is
    copied: a large batch has a gigabyte of logits. Flattened, the last two axes are M = H·W·A
    priors, in the order of the head's prior generator. :func:`reading` tells how the R numbers of a
    prior become a box. Heads that regress distances have them here, in strides.
    """
    family = dense_family(head)
    scores, boxes = outputs[0], outputs[-1 if family.refined else 1]
    logits = tuple(by_prior(level, head.cls_out_channels) for level in scores)
    raw = [_regressed(head, family.regression, i, level) for i, level in enumerate(boxes)]
    return logits, tuple(raw)


def _regressed(head: Any, regression: str, index: int, level: Tensor) -> Tensor:
    """What the head regresses for each prior of one level, (N, R, H·W, A)."""
    if regression == "deltas":
        return by_prior(level, 4)
    if regression == "distribution":
        return by_prior(level, 4 * (head.reg_max + 1))
    if regression == "points":
        box = head.points2bbox(level) if head.training else level
        return by_prior(torch.cat([-box[:, :2], box[:, 2:]], dim=1), 4)
    in_strides = regression == "distances" and head.norm_on_bbox and head.training
    stride = 1 if in_strides else head.prior_generator.strides[index][0]
    return by_prior(to_float32(level) / stride, 4)


def reading(head: Any) -> Read | None:
    """How what a dense head regresses becomes a box; None: it regresses distances.

    The localization of every head is a box: the distances from the prior to the left, top, right
    and bottom side, in units of the anchor or, for a head without anchors, in strides. Read as
    distances, the deltas of anchor heads rank boxes badly, so they are decoded; a prior outside of
    its box has negative distances. A distribution is integrated to its mean.
    """
    regression = dense_family(head).regression
    if regression == "deltas":
        return partial(decoded, head.bbox_coder)
    if regression == "distribution":
        return partial(_integrated, head)
    return None


def _integrated(head: Any, bins: Tensor) -> Tensor:
    """Mean distances (N, 4, M) of distributions (N, 4·R, M)."""
    n, _, m = bins.shape
    return head.integral(bins.transpose(1, 2).reshape(n * m, -1)).view(n, m, 4).transpose(1, 2)


def decoded(coder: Any, deltas: Tensor) -> Tensor:
    """Deltas (N, 4, M) of anchors or regions as distances to the sides, in units of the anchor.

    Ratios of areas, such as the IoU, are the same in units of the anchor as in pixels.
    """
    n, _, m = deltas.shape
    rows = to_float32(deltas).transpose(1, 2).reshape(n * m, 4)
    half = rows.new_full((n * m, 2), 0.5)
    corners = coder.decode(torch.cat([-half, half], dim=1), rows).view(n, m, 4).transpose(1, 2)
    return torch.cat([-corners[:, :2], corners[:, 2:]], dim=1)


def to_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, where sums over a map overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def by_prior(level: Tensor, channels: int) -> Tensor:
    """A view of (N, A·channels, H, W) as (N, channels, H·W, A).

    The last two axes, flattened, have the order of a prior generator.
    """
    n, _, h, w = level.shape
    return level.reshape(n, -1, channels, h * w).permute(0, 2, 3, 1)


def priors_of(level: Tensor) -> int:
    """M of responses (N, C, *): how many priors or regions an image has on a level."""
    return level[0, 0].numel()


def region_responses(box_head: Any, outputs: tuple, regions: Regions) -> tuple[Levels, Levels]:
    """Logits (N, K + 1, M) and deltas (N, 4, M) of the M regions of N images, as one level.

    ``outputs``: the box head's scores and deltas. Where the head regresses every class apart, the
    deltas are those of the class which is assigned to the region. Decoded (:func:`decoded`), they
    are the distances from the region's centre to the sides of the box, in units of its size.
    """
    scores, deltas = outputs[0], outputs[1]
    if deltas.shape[1] > 4:
        own = regions.labels.clamp(max=box_head.num_classes - 1).view(-1, 1, 1).expand(-1, 1, 4)
        deltas = deltas.view(len(deltas), -1, 4).gather(1, own).squeeze(1)
    logits, boxes = (regions.by_image(part).transpose(1, 2) for part in (scores, deltas))
    return (logits,), (boxes,)


def responses_at_regions(head: Any, maps: Levels, regions: Regions) -> tuple[Levels, Levels]:
    """A teacher's logits (N, K + 1, M) and deltas (N, 4, M) for the student's regions.

    ``head``: the teacher's RoI head. ``maps``: the teacher's own maps.
    """
    family = region_family(head)
    stage = (0,) if family.cascade else ()
    semantic = {}
    if family.semantic and head.with_semantic:
        semantic = {"semantic_feat": head.semantic_head(maps)[1]}
    found = head._bbox_forward(*stage, maps, regions.rois, **semantic)
    outputs = (found["cls_score"], found["bbox_pred"])
    return region_responses(first_stage(head)[1], outputs, regions)
