"""The IoU family against torchvision's losses of the same boxes, and EIoU against its paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detkds.distillers import BOX_DISTANCES
from detkds.space.options import CROSS_LOCALIZATION_DISTANCES, LOCALIZATION_DISTANCES
from torch import Tensor
from torchvision import ops

Loss = Callable[[Tensor, Tensor], Tensor]


def corners(sides: Tensor) -> Tensor:
    """Left, top, right, bottom around the prior point (3, -2) as x1, y1, x2, y2."""
    left, top, right, bottom = sides.unbind(-1)
    return torch.stack([3 - left, -2 - top, 3 + right, -2 + bottom], dim=-1)


def eiou_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """Zhang et al. 2022: 1 - IoU + ρ²(centres) / c² + Δw² / W² + Δh² / H²."""
    losses = []
    for a, b in zip(ours.detach().numpy(), theirs.detach().numpy(), strict=True):
        shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
        size_a, size_b = a[2:] - a[:2], b[2:] - b[:2]
        around = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
        offset = (a[2:] + a[:2] - b[2:] - b[:2]) / 2
        iou = shared / (size_a.prod() + size_b.prod() - shared)
        shape = (size_a - size_b) ** 2 / around**2
        losses.append(1 - iou + (offset**2).sum() / (around**2).sum() + shape.sum())
    return torch.tensor(np.array(losses))


PUBLISHED: dict[str, Loss] = {
    "iou": lambda a, b: 1 - ops.box_iou(a, b).diagonal(),
    "log_iou": lambda a, b: -ops.box_iou(a, b).diagonal().log(),
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
    "eiou": eiou_loss,
}


def sides(count: int = 200, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    student, teacher = generator.uniform(0.1, 8, (2, count, 4))
    return torch.tensor(student, **options), torch.tensor(teacher)


def test_every_option_of_the_space_is_there() -> None:
    space = {*LOCALIZATION_DISTANCES, *CROSS_LOCALIZATION_DISTANCES} - {"kl"}
    assert set(BOX_DISTANCES) == space == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_the_published_loss(name: str) -> None:
    student, teacher = sides()
    expected = PUBLISHED[name](corners(student), corners(teacher))
    torch.testing.assert_close(BOX_DISTANCES[name](student, teacher), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_of_probabilities_it_is_the_published_loss(name: str) -> None:
    """``sigmoid`` and ``softmax_c`` give sides well below 1."""
    student, teacher = (side / 8 for side in sides())
    expected = PUBLISHED[name](corners(student), corners(teacher))
    torch.testing.assert_close(BOX_DISTANCES[name](student, teacher), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shape_range_and_symmetry(name: str) -> None:
    student, teacher = (side.view(2, 25, 4, 4) for side in sides())
    found = BOX_DISTANCES[name](student, teacher)
    assert found.shape == (2, 25, 4)
    assert (found >= 0).all()
    torch.testing.assert_close(BOX_DISTANCES[name](teacher, student), found)
    same = BOX_DISTANCES[name](teacher, teacher)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "ciou"])
def test_gradients(name: str) -> None:
    student, teacher = sides(20, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: BOX_DISTANCES[name](s, teacher), student)


def test_ciou_has_the_published_gradient() -> None:
    """α gets no gradient; finite differences would not show that."""
    student, teacher = sides(requires_grad=True)
    gradients = [
        torch.autograd.grad(loss.sum(), student)[0]
        for loss in (
            BOX_DISTANCES["ciou"](student, teacher),
            ops.complete_box_iou_loss(corners(student), corners(teacher)),
        )
    ]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_boxes_without_area_stay_finite_with_their_gradients(name: str) -> None:
    flat = [[0, 0, 0, 0], [2, 0, 3, 0], [0, 1, 0, 1], [5, 5, 5, 5], [1e-6, 0, 0, 0]]
    for first in flat:
        for second in flat:
            student = torch.tensor(first, dtype=torch.float32, requires_grad=True)
            found = BOX_DISTANCES[name](student, torch.tensor(second, dtype=torch.float32))
            (gradient,) = torch.autograd.grad(found, student)
            assert torch.isfinite(found)
            assert torch.isfinite(gradient).all()
            assert found >= -1e-6
            if first == second:
                assert found.item() == pytest.approx(0, abs=1e-6)
