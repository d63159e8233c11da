"""What a training student's own assignment says of its priors and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .families import dense_family
from .responses import Levels, priors_of


def dense_positives(head: Any, assigned: list[tuple], logits: Levels) -> Levels:
    """True where a dense head's own assignment has a positive: (N, M) for each level.

    ``assigned``: the return value of each call of the family's ``assign_method``. ``logits``:
    (N, K, *) for each level. Returns no level for a head that gives no labels to its priors.
    """
    place = dense_family(head).labels
    if place is None:
        return ()
    return _by_level(positive(_rows(assigned, place, logits), head.num_classes), logits)


def dense_counted(
    head: Any,
    assigned: list[tuple],
    logits: Levels,
    maps: Levels,
    shapes: Sequence[tuple[int, int]] | None,
) -> Levels:
    """True where a dense head's loss looks at a prior: (N, M) for each level.

    Priors that the assignment ignores, such as anchors that overlap an object by half, do not
    count; nor do priors whose cell lies in the padding. ``shapes``: (height, width) of each image
    in pixels, without its padding; None: no image is padded. ``maps``: what the head reads.
    """
    place = dense_family(head).label_weights
    if place is None:
        counted = tuple(_all(level) for level in logits)
    else:
        counted = _by_level(_rows(assigned, place, logits) > 0, logits)
    if shapes is None:
        return counted
    strides = [stride if isinstance(stride, int) else stride[0] for stride in _strides(head)]
    return tuple(
        level & _inside(one, stride, shapes, level.shape[1])
        for level, one, stride in zip(counted, maps, strides, strict=True)
    )


def _all(level: Tensor) -> Tensor:
    return level.new_ones((len(level), priors_of(level)), dtype=torch.bool)


def places_of(positives: Levels) -> Levels:
    """The image and the place of each True of (N, M), as (P, 2), level by level.

    This waits for the device: how many there are depends on values.
    """
    found = torch.cat([level.flatten() for level in positives]).nonzero().squeeze(1)
    counts = torch.stack([level.sum() for level in positives]).tolist()
    places, before = [], 0
    for level, part in zip(positives, found.split(counts), strict=True):
        own = part - before
        places.append(torch.stack([own // level.shape[1], own % level.shape[1]], dim=1))
        before += level.numel()
    return tuple(places)


def _strides(head: Any) -> list:
    return list(head.prior_generator.strides)


def summed_centerness(head: Any, assigned: list[tuple], positives: Levels) -> Tensor | None:
    """The sum of the centerness targets of FCOS's positives, a scalar; None for other heads.

    FCOS divides its loss of boxes by the sum. For positives that are spread evenly in their boxes
    the sum is a third of their number. ``assigned``, ``positives``: see :func:`dense_positives`.
    """
    family = dense_family(head)
    if family.regression != "distances":
        return None
    assert family.labels is not None
    found = torch.cat(positives, dim=1)
    images = len(found)
    levels = assigned[-1][family.labels + 1]
    targets = torch.cat([level.view(images, -1, 4) for level in levels], dim=1)
    sides = torch.where(found.unsqueeze(2), targets, 1)  # a negative's sides may be below 0
    centerness = head.centerness_target(sides.view(-1, 4)).view_as(found)
    return (centerness * found).sum()


def _inside(level: Tensor, stride: float, shapes: Sequence[tuple[int, int]], count: int) -> Tensor:
    """True for the priors of cells that begin inside of their image: (N, M).

    ``level``: the map (N, C, H, W). ``count``: M, priors in the order (H, W, A).
    """
    rows, columns = (
        torch.arange(cells, device=level.device) * stride < limit[:, None]
        for cells, limit in zip(
            level.shape[-2:], torch.tensor(shapes, device=level.device).unbind(1), strict=True
        )
    )
    inside = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    return inside.repeat_interleave(count // inside.shape[1], dim=1)


def _rows(assigned: list[tuple], place: int, logits: Levels) -> Tensor:
    """One of the tensors that the assignment returns, for all priors of all levels: (N, M)."""
    images = len(logits[0])
    part = assigned[-1][place]
    if not isinstance(part, Tensor):  # a tensor for each level
        return torch.cat([level.view(images, -1) for level in part], dim=1)
    if part.dim() == 1 and len(part) == sum(map(priors_of, logits)):
        # Each call is for one image, all levels in a row.
        return torch.stack([image[place] for image in assigned[-images:]])
    # The levels in a row, each with the priors of all images (VFNet's weights).
    counts = [images * priors_of(level) for level in logits]
    return torch.cat([level.view(images, -1) for level in part.split(counts)], dim=1)


def _by_level(values: Tensor, logits: Levels) -> Levels:
    return values.split([priors_of(level) for level in logits], dim=1)


def positive(labels: Tensor, classes: int) -> Tensor:
    """True for the labels of objects; other labels stand for background and for nothing."""
    return (labels >= 0) & (labels < classes)
