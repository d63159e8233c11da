"""Families of dense heads: one table of what differs in reading their responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Family:
    """How the responses of a dense head are read.

    ``labels``: place of the assigned labels in what ``get_targets`` returns, a tensor per level.
    ``distribution``: each side is a distribution that ``head.integral`` turns into a distance.
    ``scaled_in_eval``: distances are multiplied by the stride outside training
    (``norm_on_bbox``), which the reading undoes so that student and teacher speak alike.
    """

    labels: int
    distribution: bool = False
    scaled_in_eval: bool = False


#: By the class that defines ``get_targets``: a subclass that assigns in its own way is no member.
FAMILIES: dict[str, Family] = {
    "AnchorHead": Family(labels=0),
    "ATSSHead": Family(labels=1),
    "GFLHead": Family(labels=1, distribution=True),
    "FCOSHead": Family(labels=0, scaled_in_eval=True),
}


def family_of(head: Any) -> Family | None:
    """The family of a dense head, or None if its responses are not read."""
    for ancestor in type(head).__mro__:
        if "get_targets" in vars(ancestor):
            return FAMILIES.get(ancestor.__name__)
    return None


def dense_head(model: Any) -> Any:
    """The one-stage head of a detector, if it has one whose responses are read."""
    head = getattr(model, "bbox_head", None)
    return head if head is not None and family_of(head) is not None else None


def logits_of(head: Any, scores: list[Tensor]) -> tuple[Tensor, ...]:
    """Class logits per level: (N, A·K, H, W) to (N, K, H·W·A), in the order of the priors."""
    return tuple(_by_prior(level, head.cls_out_channels) for level in scores)


def localization_of(head: Any, boxes: list[Tensor]) -> tuple[Tensor, ...]:
    """The four regression channels per level: (N, 4, H·W·A), in the order of the priors.

    A distribution head (GFL) is first integrated to its four distances (its formula 3).
    """
    family = family_of(head)
    assert family is not None
    levels = []
    for index, level in enumerate(boxes):
        if family.distribution:
            flat = _by_prior(level, 4 * (head.reg_max + 1))
            n, _, m = flat.shape
            sides = head.integral(flat.transpose(1, 2).reshape(n * m, -1))
            levels.append(sides.view(n, m, 4).transpose(1, 2))
            continue
        if family.scaled_in_eval and head.norm_on_bbox and not head.training:
            level = level / head.strides[index]
        levels.append(_by_prior(level, 4))
    return tuple(levels)


def positives_of(head: Any, targets: tuple, images: int) -> tuple[Tensor, ...]:
    """Where the head's own assignment has a positive: (N, H·W·A), per level."""
    family = family_of(head)
    assert family is not None
    levels = []
    for labels in targets[family.labels]:
        labels = labels.view(images, -1)
        levels.append((labels >= 0) & (labels < head.num_classes))
    return tuple(levels)


def _by_prior(level: Tensor, channels: int) -> Tensor:
    """(N, A·channels, H, W) to (N, channels, H·W·A): the order in which priors are laid out."""
    n, _, h, w = level.shape
    split = level.view(n, -1, channels, h * w)
    return split.permute(0, 2, 3, 1).reshape(n, channels, -1)


def read_responses(head: Any, outputs: tuple) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Logits and localization of what a dense head's forward returned."""
    scores, boxes = outputs[0], outputs[1]
    return logits_of(head, scores), localization_of(head, boxes)


@torch.no_grad()
def teacher_responses(
    head: Any, maps: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A frozen head's responses on its own maps: no targets, no loss."""
    return read_responses(head, head(maps))
