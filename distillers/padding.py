"""The padding of a batch counts in no distance: maps are compared where there is an image.

Images of unlike sizes are padded to one size, and so are images whose sides the detector's largest
stride does not divide. What a detector knows of the padding is nobody's knowledge, and how much of
it there is depends on the other images of the batch. The papers' releases count it; here a loss of
an image is the same whatever the image is batched with. Maps are cut to their images, not masked:
so every statistic of a transform is of the image alone, and a mixed batch costs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: (height, width) of each image in pixels, without its padding.
Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Part:
    """The images of a batch that cover the same cells of a level."""

    #: Their places in the batch; None: all of them.
    images: tuple[int, ...] | None
    rows: int
    columns: int
    #: How much of the batch they are.
    share: float = 1.0

    def cut(self, maps: Tensor) -> Tensor:
        """The maps (N, C, H, W) of these images, without the padding."""
        if self.images is None:
            return maps[:, :, : self.rows, : self.columns]
        return torch.cat([maps[i : i + 1, :, : self.rows, : self.columns] for i in self.images])

    def of(self, values: list[Tensor]) -> list[Tensor]:
        """Of one value an image, those of these images."""
        return values if self.images is None else [values[i] for i in self.images]


def parts_of(shapes: Shapes, size: Sequence[int], stride: int) -> list[Part]:
    """The images of a batch, by the cells that they cover of a level of ``size`` (H, W).

    A cell is covered if it begins inside of the image, as in a dense head's loss. Without
    ``shapes``, nothing is padded. This looks at no value of a tensor: it never waits for a device.
    """
    height, width = size
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (h, w) in enumerate(shapes):
        cells = min(-(-h // stride), height), min(-(-w // stride), width)
        groups.setdefault(cells, []).append(index)
    if len(groups) <= 1:
        rows, columns = next(iter(groups), (height, width))
        return [Part(None, rows, columns)]
    return [
        Part(tuple(images), *cells, len(images) / len(shapes)) for cells, images in groups.items()
    ]
