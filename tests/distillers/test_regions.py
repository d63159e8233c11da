"""What boxes mark on a level: the mask of the foreground, and the crops of the boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detkds.distillers.regions import CROP_SIZE, SAMPLES, crops, foreground
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

SIZE = 64

#: Corners on the grid of every level, off it and outside of the image.
corner = st.sampled_from([-8, 0, 3.5, 8, 15.9, 16, 31, 32, 40, 63, 64, 70])


@st.composite
def boxes(draw: st.DrawFn) -> Tensor:
    """n boxes with an area: (n, 4)."""
    pairs = st.tuples(corner, corner).filter(lambda pair: pair[0] != pair[1]).map(sorted)
    drawn = draw(st.lists(st.tuples(pairs, pairs), max_size=4))
    rows = [[x1, y1, x2, y2] for (x1, x2), (y1, y2) in drawn]
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def touched_cells(image_boxes: Tensor, cells: int, stride: int) -> np.ndarray:
    """Whether cell and box share an area, tested one by one."""
    mask = np.zeros((cells, cells))
    for row, column in np.ndindex(cells, cells):
        for x1, y1, x2, y2 in image_boxes.tolist():
            width = min(x2, (column + 1) * stride) - max(x1, column * stride)
            height = min(y2, (row + 1) * stride) - max(y1, row * stride)
            mask[row, column] = max(mask[row, column], width > 0 and height > 0)
    return mask


@given(st.lists(boxes(), min_size=1, max_size=3), st.sampled_from([8, 16, 32, 64]))
def test_the_foreground_is_what_boxes_touch(images: list[Tensor], stride: int) -> None:
    cells = SIZE // stride
    found = foreground(images, (cells, cells), stride)
    expected = np.stack([touched_cells(image, cells, stride) for image in images])
    np.testing.assert_array_equal(found.numpy(), expected[:, None])


def test_the_foreground_of_a_level_that_is_not_square() -> None:
    found = foreground([torch.tensor([[16.0, 0, 24, 16]])], (2, 5), 8)
    expected = torch.tensor([[0.0, 0, 1, 0, 0], [0, 0, 1, 0, 0]])
    assert torch.equal(found, expected[None, None])


@pytest.mark.parametrize("stride", [4, 8])
def test_crops_of_a_linear_map_are_its_values_at_the_bins_centres(stride: int) -> None:
    """The centre of cell (i, j) is the point stride * (i + 1/2, j + 1/2) of the image."""
    centres = (torch.arange(24, dtype=torch.float64) + 0.5) * stride
    planes = [3 * centres[None, :] - 2 * centres[:, None] + 5, 0 * centres[:, None] + centres]
    maps = torch.stack([torch.stack(planes), 10 * torch.stack(planes)])
    first = torch.tensor([[20.0, 13, 69, 83], [33, 33, 40, 47]])
    second = torch.tensor([[8.0, 8, 85, 36]])
    found = crops(maps, [first, second], stride)
    assert found.shape == (3, 2, CROP_SIZE, CROP_SIZE)
    bins = (np.arange(CROP_SIZE) + 0.5) / CROP_SIZE
    for crop, box, gain in zip(found, [*first, *second], [1, 1, 10], strict=True):
        x1, y1, x2, y2 = box.tolist()
        x, y = (x1 + bins * (x2 - x1))[None, :], (y1 + bins * (y2 - y1))[:, None]
        np.testing.assert_allclose(crop[0], gain * (3 * x - 2 * y + 5), atol=1e-4)
        np.testing.assert_allclose(crop[1], gain * (x + 0 * y), atol=1e-4)


def test_crops_take_images_without_boxes() -> None:
    maps = torch.rand(3, 2, 8, 8)
    box = torch.tensor([[8.0, 8, 40, 40]])
    found = crops(maps, [torch.zeros(0, 4), box, torch.zeros(0, 4)], 8)
    torch.testing.assert_close(found, crops(maps[1:2], [box], 8))


@given(
    st.lists(boxes(), min_size=1, max_size=3).filter(lambda images: sum(map(len, images)) > 0),
    st.sampled_from([4, 8, 32]),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_crops_are_torchvisions_roi_align(
    images: list[Tensor], stride: int, height: int, width: int
) -> None:
    """On the border, outside of it, on one cell: values and gradients of the operator itself."""
    generator = torch.Generator().manual_seed(height * 10 + width)
    shape = (len(images), 3, height, width)
    maps = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    # Off the grid: whether a sample exactly one cell outside counts hangs on its last digit.
    images = [image.double() + 0.0137 for image in images]
    found = crops(maps, images, stride)
    expected = roi_align(maps, images, CROP_SIZE, 1 / stride, sampling_ratio=SAMPLES, aligned=True)
    torch.testing.assert_close(found, expected)
    factors = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((c * factors).sum(), maps)[0] for c in (found, expected)]
    torch.testing.assert_close(*gradients)
