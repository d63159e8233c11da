"""What ground-truth boxes mark on maps: the mask of the foreground, and crops of the boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import roi_align

#: Side of the RoIAlign grid, and samples a bin and axis, as in two-stage detectors.
CROP_SIZE, SAMPLES = 7, 2


def foreground(boxes: list[Tensor], size: tuple[int, int], stride: int) -> Tensor:
    """1 in every cell of a level that a ground-truth box touches, else 0: (N, 1, H, W).

    ``boxes``: (n, 4) an image, as x1, y1, x2, y2 in pixels of the input.
    """
    padded = pad_sequence(boxes, batch_first=True)
    rows, columns = touched(padded, size, stride)
    count = torch.einsum("nbh,nbw->nhw", rows, columns)
    return (count > 0).to(padded.dtype).unsqueeze(1)


def touched(boxes: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """1 for the rows (N, n, H) and columns (N, n, W) of a level that boxes (N, n, 4) touch, else 0.

    A box of zeros, which pads a batch, touches no row and no column.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)

    def interval(low: Tensor, high: Tensor, cells: int) -> Tensor:
        edges = torch.arange(cells + 1, device=boxes.device, dtype=boxes.dtype) * stride
        inside = (low[..., None] < edges[1:]) & (high[..., None] > edges[:-1])
        return inside.to(boxes.dtype)

    return interval(y1, y2, size[0]), interval(x1, x2, size[1])


def crops(maps: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
    """RoIAlign of every ground-truth box on one level: (boxes of all images, C, 7, 7)."""
    if maps.is_cuda:
        same = [image_boxes.to(maps.dtype) for image_boxes in boxes]
        return roi_align(maps, same, CROP_SIZE, 1 / stride, sampling_ratio=SAMPLES, aligned=True)
    return _weighted_rows(maps, boxes, stride)


def _weighted_rows(maps: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
    """RoIAlign as weighted sums of positions, for a CPU.

    All channels of a position are added at once: five times as fast as torchvision's operator,
    forward and backward (``benchmarks/loss.py``).
    """
    n, c, h, w = maps.shape
    flat = torch.cat(boxes).to(maps.dtype) / stride - 0.5  # the centre of cell 0 is at 0
    x_cells, x_weights = _samples(flat[:, 0], flat[:, 2], w)
    y_cells, y_weights = _samples(flat[:, 1], flat[:, 3], h)
    first = torch.cat([torch.full((len(b), 1, 1, 1, 1), i * h * w) for i, b in enumerate(boxes)])
    cells = first + y_cells[:, :, None, :, None] * w + x_cells[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    bags = len(flat) * CROP_SIZE**2
    rows = maps.permute(0, 2, 3, 1).reshape(n * h * w, c)
    sums = F.embedding_bag(
        cells.reshape(bags, -1), rows, per_sample_weights=weights.reshape(bags, -1), mode="sum"
    )
    return sums.view(-1, CROP_SIZE, CROP_SIZE, c).permute(0, 3, 1, 2).contiguous()


def _samples(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the cells of a box's 7 bins and the cells' weights: (boxes, 7, 4) each.

    A bin has two samples, and a sample lies between two cells. A sample further than one cell from
    the map counts as 0, as in RoIAlign.
    """
    steps = CROP_SIZE * SAMPLES
    places = (torch.arange(steps, dtype=low.dtype) + 0.5) / steps
    position = low[:, None] + (high - low)[:, None] * places
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    lower = position.floor()
    part = position - lower
    cells = torch.stack([lower, (lower + 1).clamp(max=size - 1)], dim=-1).long()
    weights = torch.stack([1 - part, part], dim=-1) * (inside[..., None] / SAMPLES)
    return cells.view(-1, CROP_SIZE, 2 * SAMPLES), weights.view(-1, CROP_SIZE, 2 * SAMPLES)
