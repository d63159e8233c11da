"""``mmcv.ops`` by torchvision: values against plain formulas, gradients against differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv_operators import devices, needs_stand_in, ops, random
from torch import Tensor
from torch.autograd import gradcheck

pytestmark = needs_stand_in

# RoIAlign

ROIS = torch.tensor(
    [[0, 2.0, 4.0, 15.0, 9.0], [1, 0.0, 0.0, 23.0, 19.0], [0, 6.5, 7.0, 6.9, 7.2]],
    dtype=torch.float64,
)


def reference_roi_align(
    features: Tensor, roi: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> Tensor:
    """One RoI (C, *size): the mean of bilinear samples on a regular grid in each bin."""
    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (roi[1:] * scale - shift).tolist()
    width, height = right - left, bottom - top
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    rows = ratio or math.ceil(height / size[0])
    columns = ratio or math.ceil(width / size[1])
    y = top + (torch.arange(size[0] * rows).double() + 0.5) * height / size[0] / rows
    x = left + (torch.arange(size[1] * columns).double() + 0.5) * width / size[1] / columns
    limits = features.new_tensor([features.shape[3] - 1, features.shape[2] - 1])
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) / limits * 2 - 1
    samples = F.grid_sample(
        features[int(roi[0])][None], grid[None], padding_mode="border", align_corners=True
    )
    return F.avg_pool2d(samples, (rows, columns))[0]


@devices
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(ratio: int, aligned: bool, device: str) -> None:
    features, size, scale = random(2, 3, 10, 13), (2, 3), 0.5
    got = ops.roi_align(features.to(device), ROIS.to(device), size, scale, ratio, "avg", aligned)
    for pooled, roi in zip(got.cpu(), ROIS, strict=True):
        expected = reference_roi_align(features, roi, size, scale, ratio, aligned)
        torch.testing.assert_close(pooled, expected)


@devices
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_gradient(aligned: bool, device: str) -> None:
    features = random(2, 2, 10, 13).to(device).requires_grad_()
    rois = ROIS.to(device)
    assert gradcheck(
        lambda x: ops.roi_align(x, rois, (2, 3), 0.5, 2, "avg", aligned), features, nondet_tol=1e-12
    )


def test_roi_align_by_maximum_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        ops.roi_align(random(2, 3, 10, 13), ROIS, (2, 2), 1.0, 2, "max", True)


# Deformable convolution. Rows and columns differ in geometry: mixing them up changes the result.

GEOMETRY: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
DEFORM_GROUPS = 4


def deformable_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Input, offset, mask, weight, bias."""
    features, weight = random(2, 4, 7, 8), random(6, 2, 3, 2, seed=1)
    shape = F.conv2d(features, weight, **GEOMETRY).shape[2:]
    taps = DEFORM_GROUPS * 3 * 2
    offset = random(2, taps * 2, *shape, seed=2, scale=0.7)
    mask = random(2, taps, *shape, seed=3).sigmoid()
    return features, offset, mask, weight, random(6, seed=4)


def reference_deform_conv(features: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Sample the moved taps bilinearly, then multiply by the weights of each group."""
    count, channels, height, width = features.shape
    rows, columns = offset.shape[2:]
    kernel = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    per_group = channels // DEFORM_GROUPS
    taps = features.new_zeros(count, channels, len(kernel), rows, columns)
    moved = offset.view(count, DEFORM_GROUPS, len(kernel), 2, rows, columns)
    strength = mask.view(count, DEFORM_GROUPS, len(kernel), rows, columns)
    at_row = torch.arange(rows)[:, None] * GEOMETRY["stride"][0] - GEOMETRY["padding"][0]
    at_column = torch.arange(columns)[None] * GEOMETRY["stride"][1] - GEOMETRY["padding"][1]
    for group in range(DEFORM_GROUPS):
        part = slice(group * per_group, (group + 1) * per_group)
        for tap, (i, j) in enumerate(kernel):
            y = at_row + i * GEOMETRY["dilation"][0] + moved[:, group, tap, 0]
            x = at_column + j * GEOMETRY["dilation"][1] + moved[:, group, tap, 1]
            grid = torch.stack((x / (width - 1), y / (height - 1)), -1) * 2 - 1
            sampled = F.grid_sample(features[:, part], grid, align_corners=True)
            taps[:, part, tap] = sampled * strength[:, group, tap, None]
    grouped = taps.view(count, GEOMETRY["groups"], -1, rows, columns)
    kernels = weight.view(GEOMETRY["groups"], -1, grouped.shape[2])
    return torch.einsum("ngkhw,gok->ngohw", grouped, kernels).flatten(1, 2)


def plain(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return ops.deform_conv2d(x, offset, weight, *GEOMETRY.values(), DEFORM_GROUPS)


def modulated(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    options = (*(bias or (None,)), *GEOMETRY.values(), DEFORM_GROUPS)
    return ops.modulated_deform_conv2d(x, offset, mask, weight, *options)


@devices
def test_deformable_convolutions(device: str) -> None:
    inputs = deformable_inputs()
    x, offset, mask, weight, bias = (t.to(device) for t in inputs)
    expected = reference_deform_conv(*inputs[:4])
    torch.testing.assert_close(modulated(x, offset, mask, weight).cpu(), expected)
    torch.testing.assert_close(
        modulated(x, offset, mask, weight, bias).cpu(), expected + inputs[4].view(-1, 1, 1)
    )
    unmodulated = reference_deform_conv(
        inputs[0], inputs[1], torch.ones_like(mask.cpu()), inputs[3]
    )
    torch.testing.assert_close(plain(x, offset, weight).cpu(), unmodulated)


@devices
def test_deformable_convolutions_gradients(device: str) -> None:
    inputs = [t.to(device).requires_grad_() for t in deformable_inputs()]
    x, offset, mask, weight, bias = inputs
    options: dict[str, Any] = {"nondet_tol": 1e-10, "fast_mode": True}
    assert gradcheck(plain, (x, offset, weight), **options)
    assert gradcheck(modulated, (x, offset, mask, weight), **options)
    assert gradcheck(modulated, (x, offset, mask, weight, bias), **options)


def test_offsets_of_a_finer_map_are_read_in_memory_order() -> None:
    """mmcv's compiled operator reads them so, for the coarser level of DyHead."""
    x, offset, mask, weight, _ = deformable_inputs()
    finer = []
    for seed, places in enumerate((offset, mask)):
        count, channels, rows, columns = places.shape
        larger = random(count, channels, rows + 2, columns + 1, seed=seed)
        for image in range(count):
            larger.view(count, -1)[image, : places[image].numel()] = places[image].reshape(-1)
        finer.append(larger)
    found = modulated(x, *finer, weight)
    torch.testing.assert_close(found, reference_deform_conv(x, offset, mask, weight))
    inputs = [t.requires_grad_() for t in (x, *finer, weight)]
    assert gradcheck(modulated, inputs, nondet_tol=1e-10, fast_mode=True)


def test_nan_coordinates_do_not_end_the_process() -> None:
    x, offset, mask, weight, _ = deformable_inputs()
    offset[0] = math.nan
    rois = ROIS.clone()
    rois[0, 1:] = math.nan
    for inputs in (x, x.clone().requires_grad_()):
        for found in (modulated(inputs, offset, mask, weight), plain(inputs, offset, weight)):
            assert (found[0] == 0).all()
            assert (found[1] != 0).any()
        features = inputs[:, :2]
        assert ops.roi_align(features, rois, (2, 2), 1.0, 2, "avg", True).isfinite().all()
    (found.sum() + ops.roi_align(features, rois, (2, 2), 1.0, 2, "avg", True).sum()).backward()
    assert inputs.grad.isfinite().all()


def test_deform_conv_with_a_frozen_weight_or_input() -> None:
    x, offset, _, weight, _ = deformable_inputs()
    assert gradcheck(lambda o: plain(x, o, weight), offset.requires_grad_(), fast_mode=True)
    assert gradcheck(
        lambda w: plain(x, offset.detach(), w), weight.requires_grad_(), fast_mode=True
    )
