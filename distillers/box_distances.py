"""The distances of boxes: the IoU family of DetKDS Table 2, and FCOS's -log IoU.

A distance takes the student's boxes first and the teacher's second, and is 0 where both agree. A
box is the distances left, top, right, bottom from one prior point, (..., 4); the result is a number
a box, (...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6


@dataclass(frozen=True)
class _Overlap:
    """What all losses of the IoU family are made of, (...) or (..., 2) each."""

    iou: Tensor
    union: Tensor
    size_s: Tensor
    size_t: Tensor
    enclosing: Tensor
    centre: Tensor


def _overlap(student: Tensor, teacher: Tensor) -> _Overlap:
    s_low, s_high = student.split(2, dim=-1)
    t_low, t_high = teacher.split(2, dim=-1)
    size_s, size_t = s_low + s_high, t_low + t_high
    # Boxes around one prior overlap; boxes that are decoded from deltas may lie apart.
    sides = (torch.minimum(s_low, t_low) + torch.minimum(s_high, t_high)).clamp(min=0)
    enclosing = torch.maximum(s_low, t_low) + torch.maximum(s_high, t_high)
    intersection = sides.prod(dim=-1)
    union = size_s.prod(dim=-1) + size_t.prod(dim=-1) - intersection
    offset = ((s_high - s_low) - (t_high - t_low)) / 2
    centre = offset.square().sum(dim=-1) / (enclosing.square().sum(dim=-1) + EPSILON)
    iou = (intersection + EPSILON) / (union + EPSILON)
    return _Overlap(iou, union, size_s, size_t, enclosing, centre)


def iou(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - IoU."""
    return 1 - _overlap(student, teacher).iou


def log_iou(student: Tensor, teacher: Tensor) -> Tensor:
    """-log IoU (UnitBox, Yu et al. 2016), the loss of FCOS; at most -log(1e-6)."""
    return -_overlap(student, teacher).iou.clamp(min=EPSILON).log()


def giou(student: Tensor, teacher: Tensor) -> Tensor:
    """Generalised IoU loss (Rezatofighi et al. 2019); Appendix D's own formula is not it."""
    box = _overlap(student, teacher)
    area = box.enclosing.prod(dim=-1)
    return 1 - box.iou + (area - box.union) / (area + EPSILON)


def diou(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance IoU loss (Zheng et al. 2020)."""
    box = _overlap(student, teacher)
    return 1 - box.iou + box.centre


def ciou(student: Tensor, teacher: Tensor) -> Tensor:
    """Complete IoU loss (Zheng et al. 2020); its trade-off α gets no gradient, as published."""
    box = _overlap(student, teacher)
    angle_s = torch.atan2(box.size_s[..., 0], box.size_s[..., 1] + EPSILON)
    angle_t = torch.atan2(box.size_t[..., 0], box.size_t[..., 1] + EPSILON)
    v = 4 / math.pi**2 * (angle_s - angle_t).square()
    with torch.no_grad():
        alpha = v / (1 - box.iou + v + EPSILON)
    return 1 - box.iou + box.centre + alpha * v


def eiou(student: Tensor, teacher: Tensor) -> Tensor:
    """Efficient IoU loss (Zhang et al. 2022): centre, width and height penalties."""
    box = _overlap(student, teacher)
    sides = (box.size_s - box.size_t).square() / (box.enclosing.square() + EPSILON)
    return 1 - box.iou + box.centre + sides.sum(dim=-1)


#: The distances of boxes, by name.
BOX_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (iou, log_iou, giou, diou, ciou, eiou)
}
