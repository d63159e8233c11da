"""Hard and soft non-maximum suppression of ``mmcv.ops`` against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmcv_operators import devices, needs_stand_in, ops
from torch import Tensor

pytestmark = needs_stand_in


def boxes_and_scores(count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 20
    size = 2 + torch.rand(count, 2, generator=generator) * 12
    return torch.cat((corner, corner + size), 1), torch.rand(count, generator=generator)


def overlap(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    """Intersection over union; a box is x2 - x1 + offset wide."""
    area = [np.prod(box[2:] - box[:2] + offset) for box in (a, b)]
    shared = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + offset
    intersection = float(np.prod(shared.clip(0)))
    return intersection / (sum(area) - intersection)


@devices
@pytest.mark.parametrize("offset", [0, 1])
def test_nms(offset: int, device: str) -> None:
    boxes, scores = boxes_and_scores()
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[index].numpy(), boxes[k].numpy(), offset) <= 0.4 for k in kept):
            kept.append(index)
    dets, indices = ops.nms(boxes.to(device), scores.to(device), 0.4, offset=offset)
    assert indices.tolist() == kept
    torch.testing.assert_close(dets.cpu(), torch.cat((boxes, scores[:, None]), 1)[kept])


def test_nms_with_an_offset_differs() -> None:
    boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0], [2.0, 0.0, 5.0, 3.0]])
    scores = torch.tensor([0.9, 0.8])
    # The IoU is 3/15 with an offset of 0, and 8/24 with an offset of 1.
    assert len(ops.nms(boxes, scores, 0.25, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.25, offset=1)[1]) == 1


@devices
def test_batched_nms_compares_within_a_class(device: str) -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    boxes, classes = torch.stack((box, box + 1, box + 2)), torch.tensor([0, 1, 0])
    scores = torch.tensor([0.7, 0.9, 0.8])
    dets, indices = ops.batched_nms(
        *(t.to(device) for t in (boxes, scores, classes)), {"type": "nms", "iou_threshold": 0.4}
    )
    assert indices.tolist() == [1, 2]
    torch.testing.assert_close(dets[:, 4].cpu(), torch.tensor([0.9, 0.8]))


def reference_soft_nms(
    boxes: np.ndarray, scores: np.ndarray, method: str, offset: int
) -> tuple[list[int], list[float]]:
    left, kept, final = dict(enumerate(scores.astype(float))), [], []
    while left:
        best = max(left, key=left.__getitem__)
        kept.append(best)
        final.append(left.pop(best))
        for index in list(left):
            iou = overlap(boxes[best], boxes[index], offset)
            if method == "gaussian":
                left[index] *= math.exp(-(iou**2) / 0.5)
            elif iou >= 0.3:
                left[index] *= 1 - iou if method == "linear" else 0
            if left[index] < 0.05:
                del left[index]
    return kept, final


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method: str, offset: int) -> None:
    boxes, scores = boxes_and_scores()
    kept, final = reference_soft_nms(boxes.numpy(), scores.numpy(), method, offset)
    assert 5 < len(kept) < len(boxes)
    dets, indices = ops.soft_nms(
        boxes, scores, 0.3, sigma=0.5, min_score=0.05, method=method, offset=offset
    )
    assert indices.tolist() == kept
    torch.testing.assert_close(dets[:, :4], boxes[kept])
    np.testing.assert_allclose(dets[:, 4], final, rtol=1e-5)


def test_soft_nms_of_no_boxes() -> None:
    dets, indices = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert indices.shape == (0,)
