"""Inheriting: a student that starts from its teacher's neck and head."""

from __future__ import annotations

from typing import Any

import torch

PARTS = ("neck", "rpn_head", "bbox_head", "roi_head")


@torch.no_grad()
def inherit(student: Any, teacher: Any) -> list[str]:
    """Copy the teacher's neck and head into the student, where they are built alike.

    A part is taken over if both are of one class with parameters of the same names (so that a
    level's weights do not end up at another level), and of it every layer whose tensors have the
    same shapes. Returns the names of what was copied. The "inheriting strategy" of FGD (CVPR 2022).
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
    return name.rpartition(".")[0]
