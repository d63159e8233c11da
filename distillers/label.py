"""SSSD (Deng et al. 2023): an implicit teacher made of the labels and the student's own maps.

The paper's summary names the parts: an encoding of boxes and classes that is spread over the
objects' regions, a fusion with the pyramid, the shared head that reads the result, and the
Jensen-Shannon distance. The layers of the parts are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..detectors import Levels, to_float32
from .features import levels_in_parts, over_levels
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair
from .regions import touched

#: Width of an object's encoding.
WIDTH = 64


class LabelTeacher(nn.Module):
    """From the student's maps and the ground truth to label-enhanced maps of the same shapes.

    An MLP encodes each object's box, in shares of the image, and its class. The code is spread over
    the cells that the box touches. A fusion that all levels share adds the codes to the student's
    map. The head's loss on the enhanced maps trains the encoder, the fusion and, through its maps,
    the student.
    """

    def __init__(self, channels: int, classes: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.classes, self.strides = classes, strides
        self.encoder = nn.Sequential(
            nn.Linear(4 + classes, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(channels + WIDTH, channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )

    def forward(self, observation: Observation) -> Levels:
        """Label-enhanced maps (N, C, H, W) of the student's."""
        return self.enhanced(
            observation.student.features, observation.student_boxes, observation.labels
        )

    def enhanced(self, maps: Levels, boxes: list[Tensor], labels: list[Tensor]) -> Levels:
        """``maps``: (N, C, H, W) a level; ``boxes``: (n, 4) an image, as x1, y1, x2, y2 in pixels
        of the input; ``labels``: (n,) an image."""
        height, width = (side * self.strides[0] for side in maps[0].shape[-2:])
        padded, kinds = (pad_sequence(part, batch_first=True) for part in (boxes, labels))
        x, y = padded[..., 0::2] / width, padded[..., 1::2] / height
        kind = kinds[..., None] == torch.arange(self.classes, device=kinds.device)
        codes = self.encoder(torch.cat([x, y, kind.to(x.dtype)], dim=2))
        return tuple(
            self._enhanced_level(level, padded, codes, stride)
            for level, stride in zip(maps, self.strides, strict=True)
        )

    def _enhanced_level(self, level: Tensor, boxes: Tensor, codes: Tensor, stride: int) -> Tensor:
        size = (level.shape[-2], level.shape[-1])
        rows, columns = (part.to(codes.dtype) for part in touched(boxes, size, stride))
        spread = torch.einsum("nbh,nbw,nbc->nchw", rows, columns, codes)
        count = torch.einsum("nbh,nbw->nhw", rows, columns).unsqueeze(1)
        mean = spread / count.clamp(min=1)
        return level + self.fusion(torch.cat([level, mean], dim=1))


class Label(Kind):
    """``label``: the student's maps against the label-enhanced maps, which get no gradient."""

    needs = Needs(second_loss=True)
    PART = "label_teacher"

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        """Why the student can't be its own teacher, or None; a teacher does not matter."""
        student = pair.student
        if student.classes is None:
            return f"{student.name} has no head that tells classes apart"
        if student.encoded:
            return f"{student.name}'s head reads its encoder's memory, not the neck's maps"
        if len(set(student.channels)) > 1:
            return f"{student.name} has levels of unlike channels {list(student.channels)}"
        return None

    def parts(self) -> Mapping[str, Callable[[], nn.Module]]:
        student = self.pair.student
        assert student.classes is not None
        classes = student.classes
        return {self.PART: lambda: LabelTeacher(student.channels[0], classes, student.strides)}

    def extra_losses(self, observation: Observation, seen: Mapping[str, Any]) -> dict[str, Any]:
        """What the student's head loses on the label-enhanced maps, as ``label_<name>``."""
        assert observation.second_loss is not None
        losses = observation.second_loss(seen[self.PART])
        return {f"label_{name}": value for name, value in losses.items()}

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        levels = zip(observation.student.features, seen[self.PART], strict=True)
        pairs = [(to_float32(s), to_float32(e.detach())) for s, e in levels]
        parts = levels_in_parts(pairs, observation.student_shapes, self.pair.student.strides)
        return over_levels(self.term, pairs, parts)
