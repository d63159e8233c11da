"""Responses: class scores and boxes of every family of heads, read into one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    #: What the four regression channels mean, in words.
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
    deltas = _deltas(box_head.bbox_coder)
    return Responses("region", box_head.num_classes, (), "softmax with background", deltas)


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
        return f"{_deltas(head.bbox_coder)} to anchors of {shapes}"
    offset = getattr(generator, "center_offset", getattr(generator, "offset", 0))
    return f"distances in strides from {offset:g} of the cell"


def _rounded(values: Any) -> Any:
    """Two decimals of each number; the numbers are in a list, or in a list for each level (SSD)."""
    if isinstance(values, Tensor):
        values = values.tolist()
    return [_rounded(v) for v in values] if isinstance(values, list) else round(float(values), 2)


def _deltas(coder: Any) -> str:
    means, stds = ([round(float(v), 3) for v in values] for values in (coder.means, coder.stds))
    return f"deltas of mean {means} and deviation {stds}"


def dense_responses(head: Any, outputs: tuple) -> tuple[Levels, Levels]:
    """Logits (N, K, M) and localization (N, 4, M) of each level.

    ``outputs``: the return value of the dense head's forward on maps (N, C, H, W). M = H·W·A
    priors, in the order of the head's prior generator.
    """
    family = dense_family(head)
    scores, boxes = outputs[0], outputs[-1 if family.refined else 1]
    logits = tuple(split_by_prior(level, head.cls_out_channels) for level in scores)
    read = [_localization(head, family.regression, i, level) for i, level in enumerate(boxes)]
    return logits, tuple(read)


def _localization(head: Any, regression: str, index: int, level: Tensor) -> Tensor:
    """The four regression channels (N, 4, M) of one level."""
    if regression == "deltas":
        return split_by_prior(level, 4)
    if regression == "distribution":
        flat = split_by_prior(level, 4 * (head.reg_max + 1))
        n, _, m = flat.shape
        expected = head.integral(flat.transpose(1, 2).reshape(n * m, -1))
        return expected.view(n, m, 4).transpose(1, 2)
    if regression == "points":
        box = head.points2bbox(level) if head.training else level
        return split_by_prior(torch.cat([-box[:, :2], box[:, 2:]], dim=1), 4)
    in_strides = regression == "distances" and head.norm_on_bbox and head.training
    stride = 1 if in_strides else head.prior_generator.strides[index][0]
    return split_by_prior(level / stride, 4)


def split_by_prior(level: Tensor, channels: int) -> Tensor:
    """From (N, A·channels, H, W) to (N, channels, H·W·A), the order of a prior generator."""
    n, _, h, w = level.shape
    split = level.view(n, -1, channels, h * w)
    return split.permute(0, 2, 3, 1).reshape(n, channels, -1)


def dense_positives(head: Any, assigned: list[tuple], logits: Levels) -> Levels:
    """True where a dense head's own assignment has a positive: (N, M) for each level.

    ``assigned``: the return value of each call of the family's ``assign_method``. ``logits``:
    (N, K, M) for each level. Returns no level for a head that gives no labels to its priors.
    """
    family = dense_family(head)
    if family.labels is None:
        return ()
    images = len(logits[0])
    labels = assigned[-1][family.labels]
    if isinstance(labels, Tensor):  # each call is for one image, all levels in a row
        labels = torch.stack([image[family.labels] for image in assigned[-images:]])
    else:
        labels = torch.cat([level.view(images, -1) for level in labels], dim=1)
    return _positive(labels, head.num_classes).split([level.shape[2] for level in logits], dim=1)


def region_responses(
    box_head: Any, outputs: tuple, regions: Regions
) -> tuple[Levels, Levels, Levels]:
    """Logits (R, K + 1, 1), localization (R, 4, 1) and positives (R, 1) of R regions, as one level.

    ``outputs``: the box head's scores and deltas. Where the head regresses every class apart, the
    localization is the four channels of the class that is assigned to the region.
    """
    scores, deltas = outputs[0], outputs[1]
    labels = regions.labels
    if deltas.shape[1] > 4:
        own = labels.clamp(max=box_head.num_classes - 1).view(-1, 1, 1).expand(-1, 1, 4)
        deltas = deltas.view(len(deltas), -1, 4).gather(1, own).squeeze(1)
    positives = _positive(labels, box_head.num_classes)
    return (scores.unsqueeze(2),), (deltas.unsqueeze(2),), (positives.unsqueeze(1),)


def responses_at_regions(head: Any, maps: Levels, regions: Regions) -> tuple[Levels, Levels]:
    """A teacher's logits (R, K + 1, 1) and localization (R, 4, 1) for the student's regions.

    ``head``: the teacher's RoI head. ``maps``: the teacher's own maps.
    """
    family = region_family(head)
    stage = (0,) if family.cascade else ()
    semantic = {}
    if family.semantic and head.with_semantic:
        semantic = {"semantic_feat": head.semantic_head(maps)[1]}
    found = head._bbox_forward(*stage, maps, regions.rois, **semantic)
    outputs = (found["cls_score"], found["bbox_pred"])
    return region_responses(first_stage(head)[1], outputs, regions)[:2]


def _positive(labels: Tensor, classes: int) -> Tensor:
    return (labels >= 0) & (labels < classes)
