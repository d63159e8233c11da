"""Which levels and responses are compared, and the regions that boxes cut out of a level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detkds.detectors import Signature
from detkds.distillers import available_knowledge, check_pair, pair_levels, responses_differ
from detkds.distillers.knowledge import CROP_SIZE, crops, foreground
from detkds.space import FEATURE_KNOWLEDGE, KNOWLEDGE, Distiller, WrongUse
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

torch.set_num_threads(1)

ONE_STAGE = Signature("student", (8, 16, 32, 64), (16,) * 4, 4, (9,) * 4)
FINER = Signature("teacher", (4, 8, 16, 32, 64), (24,) * 5, 4, (3, 9, 9, 9, 9))
TWO_STAGE = replace(FINER, priors=None)
SIZE = 64

#: Corners on the grid of every level, off it and outside of the image.
corner = st.sampled_from([-8, 0, 3.5, 8, 15.9, 16, 31, 32, 40, 63, 64, 70])


@st.composite
def boxes(draw: st.DrawFn) -> Tensor:
    """(n, 4) of boxes that have an area."""
    pairs = st.tuples(corner, corner).filter(lambda pair: pair[0] != pair[1]).map(sorted)
    drawn = draw(st.lists(st.tuples(pairs, pairs), max_size=4))
    rows = [[x1, y1, x2, y2] for (x1, x2), (y1, y2) in drawn]
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def touched_cells(image_boxes: Tensor, cells: int, stride: int) -> np.ndarray:
    """Cell by cell and box by box: do the two share an area?"""
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
    """Cell (i, j) stands for the point stride * (i + 1/2, j + 1/2) of the image."""
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


def test_levels_are_paired_by_stride() -> None:
    pairing = pair_levels(ONE_STAGE, FINER)
    assert pairing.strides == (8, 16, 32, 64)
    assert pairing.student_levels == (0, 1, 2, 3)
    assert pairing.teacher_levels == (1, 2, 3, 4)
    assert pair_levels(FINER, ONE_STAGE).student_levels == (1, 2, 3, 4)


def test_levels_without_a_common_stride_are_refused() -> None:
    other = replace(FINER, strides=(5, 10, 20, 40, 80))
    with pytest.raises(WrongUse, match=r"student has levels of stride \[8.*teacher of \[5"):
        pair_levels(ONE_STAGE, other)


WRONG = {
    "classes": (replace(FINER, num_classes=80), "student has 4 classes and teacher has 80"),
    "priors": (replace(FINER, priors=(1,) * 5), "has [9, 9, 9, 9] priors a position and teacher"),
    "priors of one level": (replace(FINER, priors=(9, 9, 9, 9, 1)), "has [9, 9, 9, 1]"),
    "no dense head": (TWO_STAGE, "teacher has no dense head"),
}


@pytest.mark.parametrize("knowledge", ["logits: norm_n, pearson", "localization: sigmoid, ciou"])
@pytest.mark.parametrize("case", WRONG)
def test_responses_that_do_not_line_up_are_refused(case: str, knowledge: str) -> None:
    teacher, message = WRONG[case]
    distiller = Distiller.parse(f"global: identity, l1; {knowledge}")
    with pytest.raises(WrongUse) as caught:
        check_pair(distiller, ONE_STAGE, teacher)
    assert message in str(caught.value)
    assert knowledge.split(":")[0] in str(caught.value)
    assert "use global, fgbg, instance" in str(caught.value)


@pytest.mark.parametrize("case", WRONG)
def test_such_a_pair_still_shares_its_features(case: str) -> None:
    teacher, message = WRONG[case]
    check_pair(Distiller.parse("global: identity, l1"), ONE_STAGE, teacher)
    check_pair(Distiller.parse("fgbg: mask, l1; logits: norm_n, l1 × 0"), ONE_STAGE, teacher)
    assert available_knowledge(ONE_STAGE, teacher) == FEATURE_KNOWLEDGE
    assert message in (responses_differ(ONE_STAGE, teacher) or "")


def test_a_pair_that_lines_up_shares_all() -> None:
    """The teacher's stride 4 has other priors, but the student no such level."""
    assert responses_differ(ONE_STAGE, FINER) is None
    assert available_knowledge(ONE_STAGE, FINER) == KNOWLEDGE
    every = "; ".join(f"{kind}: identity, l1" for kind in KNOWLEDGE[:4])
    check_pair(Distiller.parse(f"{every}; localization: pow2, iou"), ONE_STAGE, FINER)
