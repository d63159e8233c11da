"""``mmcv.ops`` by plain torch: values against plain formulas, gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv_operators import devices, needs_stand_in, ops, random
from torch import Tensor
from torch.autograd import gradcheck
from torchvision.ops import sigmoid_focal_loss as reference_focal_loss

pytestmark = needs_stand_in

# Multi-scale deformable attention

SHAPES = torch.tensor([[4, 5], [2, 3]])


def attention_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Value, sampling locations (some outside), attention weights."""
    value = random(2, 26, 2, 3)
    locations = 0.5 + random(2, 4, 2, 2, 3, 2, seed=1, scale=0.35)
    return value, locations, random(2, 4, 2, 6, seed=2).softmax(-1).view(2, 4, 2, 2, 3)


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes, starts = SHAPES.to(value.device), torch.tensor([0, 20], device=value.device)
    attention = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction
    return attention.apply(value, shapes, starts, locations, weights, 64)


def pixel(level: Tensor, row: int, column: int) -> Tensor:
    inside = 0 <= row < level.shape[0] and 0 <= column < level.shape[1]
    return level[row, column] if inside else torch.zeros_like(level[0, 0])


def reference_sample(level: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sample of (H, W, channels) at x, y in [0, 1]; pixel centres are at halves."""
    row, column = y * level.shape[0] - 0.5, x * level.shape[1] - 0.5
    top, left = math.floor(row), math.floor(column)
    corners = [
        pixel(level, top + i, left + j)
        * (row - top if i else 1 - row + top)
        * (column - left if j else 1 - column + left)
        for i in (0, 1)
        for j in (0, 1)
    ]
    return torch.stack(corners).sum(0)


@devices
def test_multi_scale_deformable_attention(device: str) -> None:
    value, locations, weights = attention_inputs()
    levels = [value[:, :20].view(2, 4, 5, 2, 3), value[:, 20:].view(2, 2, 3, 2, 3)]
    expected = torch.zeros(2, 4, 2, 3, dtype=torch.float64)
    for image, query, head, level, point in np.ndindex(*weights.shape):
        sample = reference_sample(
            levels[level][image, :, :, head], *locations[image, query, head, level, point].tolist()
        )
        expected[image, query, head] += weights[image, query, head, level, point] * sample
    got = attend(*(t.to(device) for t in (value, locations, weights)))
    torch.testing.assert_close(got.cpu(), expected.flatten(2))


@devices
def test_multi_scale_deformable_attention_gradient(device: str) -> None:
    inputs = tuple(t.to(device).requires_grad_() for t in attention_inputs())
    assert gradcheck(attend, inputs, fast_mode=True, nondet_tol=1e-10)


# Sigmoid focal loss

TARGET = torch.tensor([0, 3, 2, 1, 3])  # classes are 0, 1, 2; 3 stands for background


@devices
@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_sigmoid_focal_loss(gamma: float, device: str) -> None:
    logits = random(5, 3, scale=3)
    one_hot = F.one_hot(TARGET, 4)[:, :3].double()
    expected = reference_focal_loss(logits, one_hot, alpha=0.3, gamma=gamma)
    for reduction, reduced in (
        ("none", expected),
        ("sum", expected.sum()),
        ("mean", expected.sum() / len(logits)),
    ):
        got = ops.sigmoid_focal_loss(
            logits.to(device), TARGET.to(device), gamma, 0.3, None, reduction
        )
        torch.testing.assert_close(got.cpu(), reduced)


@devices
def test_sigmoid_focal_loss_weighs_rows_by_their_class(device: str) -> None:
    logits, weight = random(5, 3), torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    inputs = logits.to(device), TARGET.to(device), 2.0, 0.25
    unweighted = ops.sigmoid_focal_loss(*inputs, None, "none").cpu()
    weighted = ops.sigmoid_focal_loss(*inputs, weight.to(device), "none").cpu()
    of_row = torch.tensor([2.0, 1.0, 5.0, 3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(weighted, unweighted * of_row[:, None])


@devices
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, [2.0, 3.0, 5.0]])
def test_sigmoid_focal_loss_gradient(
    weight: list[float] | None, reduction: str, device: str
) -> None:
    logits, target = random(5, 3).to(device).requires_grad_(), TARGET.to(device)
    factors = None if weight is None else logits.new_tensor(weight)
    assert gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, target, 1.5, 0.3, factors, reduction), logits
    )


def test_sigmoid_focal_loss_of_extreme_logits_is_finite() -> None:
    logits = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    target = torch.tensor([1, 0])
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[225.0], [75.0]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75], [-0.25]]))


def test_mmdets_focal_loss_on_a_gpu_and_on_a_cpu_agree() -> None:
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    from mmdet.models.losses.focal_loss import sigmoid_focal_loss as on_a_gpu

    logits, weight = random(5, 3).requires_grad_(), random(5, seed=1).abs()
    one_hot = F.one_hot(TARGET, 4)[:, :3]
    losses = [
        on_a_gpu(logits, TARGET, weight, avg_factor=3.0),
        py_sigmoid_focal_loss(logits, one_hot, weight, avg_factor=3.0),
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))
