"""Inheriting: a student starts from the weights of its teacher's neck and head."""

from __future__ import annotations

from typing import Any

import torch

PARTS = ("neck", "rpn_head", "bbox_head", "roi_head")


@torch.no_grad()
def inherit(student: Any, teacher: Any) -> list[str]:
    """Copy the weights of the teacher's neck and head into the student, where both are alike.

    A part (neck, RPN head, dense head, RoI head) is copied only if the student's part and the
    teacher's are of the same class and name their weights alike: otherwise the weights of one level
    could end up at another level. Within a part, a layer is copied only if all its tensors have the
    same shapes in both. Returns the names of the weights copied. This is the "inheriting strategy"
    of FGD (CVPR 2022).
    """
    copied: list[str] = []
    for part in PARTS:
        ours, theirs = getattr(student, part, None), getattr(teacher, part, None)
        if ours is None or theirs is None or type(ours) is not type(theirs):
            continue
        target, source = ours.state_dict(), theirs.state_dict()
        if target.keys() != source.keys():
            continue
        others = {_layer(n) for n, value in target.items() if value.shape != source[n].shape}
        for name in (name for name in target if _layer(name) not in others):
            target[name].copy_(source[name])
            copied.append(f"{part}.{name}")
    return copied


def _layer(name: str) -> str:
    """The layer to which a weight belongs: ``cls_convs.0.conv`` of ``cls_convs.0.conv.weight``."""
    return name.rpartition(".")[0]
