"""Responses: what heads answer, brought into one form whatever their family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .families import dense_family, dense_head, first_stage, region_family, region_head

Levels = tuple[Tensor, ...]

#: What makes a prior generator's anchors: base sizes, in strides, and what each is multiplied by.
SHAPES = ("sizes", "scales", "ratios")


@dataclass(frozen=True)
class Responses:
    """What of a detector's responses must line up with another's.

    ``kind``: ``dense``, an answer at every position, or ``region``, one for each RoI. ``priors``:
    per position, level by level (empty for regions). ``scores`` and ``boxes`` say in words how
    classes and the four regression channels are meant. ``unlabelled``: why no positives are told of
    a student that answers so, in words that follow its name.
    """

    kind: str
    classes: int
    priors: tuple[int, ...]
    scores: str
    boxes: str
    unlabelled: str | None = None


@dataclass(frozen=True)
class Regions:
    """The regions a student's RoI head trained on: ``rois`` (R, 5) as image, x1, y1, x2, y2 in

    pixels of the input, and their assigned ``labels`` (R,), the number of classes for background.
    """

    rois: Tensor
    labels: Tensor


def responses_of(model: Any) -> Responses | None:
    """How a detector answers; None if that is not read."""
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
    head = region_head(model)
    if head is not None:
        box_head = first_stage(head)[1]
        deltas = _deltas(box_head.bbox_coder)
        return Responses("region", box_head.num_classes, (), "softmax with background", deltas)
    return None


def _unlabelled(head: Any) -> str | None:
    family = dense_family(head)
    assert family is not None
    if family.labels is not None:
        return None
    return f"has the {type(head).__name__}, which assigns no label to its priors"


def _dense_boxes(head: Any) -> str:
    family = dense_family(head)
    assert family is not None
    generator = head.prior_generator
    if family.sides == "deltas":
        sizes = [
            base / min(stride)
            for base, stride in zip(generator.base_sizes, generator.strides, strict=True)
        ]
        parts = {"sizes": list(dict.fromkeys(sizes)), **vars(generator)}
        shapes = ", ".join(f"{name} {_rounded(parts[name])}" for name in SHAPES)
        return f"{_deltas(head.bbox_coder)} to anchors of {shapes}"
    offset = getattr(generator, "center_offset", getattr(generator, "offset", 0))
    return f"distances in strides from {offset:g} of the cell"


def _rounded(values: Any) -> Any:
    """Numbers, one by one or level by level (SSD's)."""
    if isinstance(values, Tensor):
        values = values.tolist()
    return [_rounded(v) for v in values] if isinstance(values, list) else round(float(values), 2)


def _deltas(coder: Any) -> str:
    means, stds = ([round(float(v), 3) for v in values] for values in (coder.means, coder.stds))
    return f"deltas of mean {means} and deviation {stds}"


def dense_responses(head: Any, outputs: tuple) -> tuple[Levels, Levels]:
    """Logits (N, K, M) and localization (N, 4, M) per level of what a dense head's forward returned

    for maps (N, C, H, W); M = H·W·A priors in the order in which the head lays them out.
    """
    family = dense_family(head)
    assert family is not None
    scores, boxes = outputs[0], outputs[-1 if family.refined else 1]
    logits = tuple(split_by_prior(level, head.cls_out_channels) for level in scores)
    return logits, tuple(_sides(head, family.sides, level, i) for i, level in enumerate(boxes))


def _sides(head: Any, sides: str, level: Tensor, index: int) -> Tensor:
    """The four regression channels of one level: (N, 4, M)."""
    if sides == "deltas":
        return split_by_prior(level, 4)
    if sides == "distribution":
        flat = split_by_prior(level, 4 * (head.reg_max + 1))
        n, _, m = flat.shape
        expected = head.integral(flat.transpose(1, 2).reshape(n * m, -1))
        return expected.view(n, m, 4).transpose(1, 2)
    if sides == "points":
        box = head.points2bbox(level) if head.training else level
        return split_by_prior(torch.cat([-box[:, :2], box[:, 2:]], dim=1), 4)
    in_strides = sides == "distances" and head.norm_on_bbox and head.training
    stride = 1 if in_strides else head.prior_generator.strides[index][0]
    return split_by_prior(level / stride, 4)


def split_by_prior(level: Tensor, channels: int) -> Tensor:
    """(N, A·channels, H, W) to (N, channels, H·W·A): the order in which priors are laid out."""
    n, _, h, w = level.shape
    split = level.view(n, -1, channels, h * w)
    return split.permute(0, 2, 3, 1).reshape(n, channels, -1)


def dense_positives(head: Any, assigned: list[tuple], logits: Levels) -> Levels:
    """Where a dense head's own assignment has a positive: (N, M), per level as its ``logits``.

    ``assigned``: what its family's ``assigns`` returned, call by call. Empty without labels.
    """
    family = dense_family(head)
    assert family is not None
    if family.labels is None:
        return ()
    images = len(logits[0])
    labels = assigned[-1][family.labels]
    if isinstance(labels, Tensor):  # of one image, the levels in a row
        labels = torch.stack([one[family.labels] for one in assigned[-images:]])
    else:
        labels = torch.cat([level.view(images, -1) for level in labels], dim=1)
    return _positive(labels, head.num_classes).split([level.shape[2] for level in logits], dim=1)


def region_responses(
    box_head: Any, outputs: tuple, regions: Regions
) -> tuple[Levels, Levels, Levels]:
    """Logits (R, K + 1, 1), localization (R, 4, 1) and positives (R, 1) of regions, as one level.

    Of a head that regresses each class apart, the assigned class's four channels are read.
    """
    scores, deltas = outputs[0], outputs[1]
    labels = regions.labels
    if deltas.shape[1] > 4:
        own = labels.clamp(max=box_head.num_classes - 1).view(-1, 1, 1).expand(-1, 1, 4)
        deltas = deltas.view(len(deltas), -1, 4).gather(1, own).squeeze(1)
    positives = _positive(labels, box_head.num_classes)
    return (scores.unsqueeze(2),), (deltas.unsqueeze(2),), (positives.unsqueeze(1),)


def ask_regions(head: Any, maps: Levels, regions: Regions) -> tuple[Levels, Levels]:
    """A RoI head's logits and localization, on its own maps, at somebody else's regions."""
    family = region_family(head)
    assert family is not None
    stage = (0,) if family.cascade else ()
    semantic = {}
    if family.semantic and head.with_semantic:
        semantic = {"semantic_feat": head.semantic_head(maps)[1]}
    found = head._bbox_forward(*stage, maps, regions.rois, **semantic)
    outputs = (found["cls_score"], found["bbox_pred"])
    return region_responses(first_stage(head)[1], outputs, regions)[:2]


def _positive(labels: Tensor, classes: int) -> Tensor:
    return (labels >= 0) & (labels < classes)
