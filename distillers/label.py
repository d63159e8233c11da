"""SSSD (Deng et al. 2023): an implicit teacher made of the labels and the student's own maps.

Of the paper the summary fixes the parts: an encoding of boxes and classes spread over the objects'
regions, fused with the pyramid, read by the shared head, and compared by the Jensen-Shannon
distance. Their layers are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .regions import touched

#: Width of an object's encoding.
WIDTH = 64


class LabelTeacher(nn.Module):
    """From the student's maps and the ground truth to label-enhanced maps of the same shapes.

    Each object's box, in shares of the image, and its class are encoded by an MLP and spread over
    the cells that the box touches; a fusion shared by the levels adds to the student's map. It
    learns from the head's loss on what it makes, and the student's maps, which are part of that,
    learn from it too.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.encoder = nn.Sequential(
            nn.Linear(4 + classes, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(channels + WIDTH, channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )

    def forward(
        self,
        maps: tuple[Tensor, ...],
        boxes: list[Tensor],
        labels: list[Tensor],
        strides: tuple[int, ...],
    ) -> tuple[Tensor, ...]:
        """Label-enhanced maps (N, C, H, W) of the student's.

        ``boxes``: per image (n, 4) as x1, y1, x2, y2 in pixels of the input; ``labels``: (n,).
        """
        height, width = (side * strides[0] for side in maps[0].shape[-2:])
        padded, kinds = (pad_sequence(part, batch_first=True) for part in (boxes, labels))
        x, y = padded[..., 0::2] / width, padded[..., 1::2] / height
        kind = kinds[..., None] == torch.arange(self.classes, device=kinds.device)
        codes = self.encoder(torch.cat([x, y, kind.to(x.dtype)], dim=2))
        return tuple(
            self._enhanced(level, padded, codes, stride)
            for level, stride in zip(maps, strides, strict=True)
        )

    def _enhanced(self, level: Tensor, boxes: Tensor, codes: Tensor, stride: int) -> Tensor:
        size = (level.shape[-2], level.shape[-1])
        rows, columns = (part.to(codes.dtype) for part in touched(boxes, size, stride))
        spread = torch.einsum("nbh,nbw,nbc->nchw", rows, columns, codes)
        count = torch.einsum("nbh,nbw->nhw", rows, columns).unsqueeze(1)
        mean = spread / count.clamp(min=1)
        return level + self.fusion(torch.cat([level, mean], dim=1))
