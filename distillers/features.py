"""Knowledge of feature maps: ``global``, ``fgbg`` and ``instance`` (DetKDS, Section 3.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import to_float32
from ..space import Term
from .distances import MAP_DISTANCES, PART_DISTANCES, l1, pearson, ssim, ssim_values
from .kind import Kind
from .observe import Observation
from .padding import Part, Shapes, parts_of
from .pairing import Pair
from .regions import crops, foreground
from .transforms import FEATURE_TRANSFORMS, TensorPair

#: Student's maps, teacher's maps, and their weight, None where all counts.
Weighted = tuple[Tensor, Tensor, Tensor | None]
#: "Background at half weight" (the authors' release).
BACKGROUND_WEIGHT = 0.5
#: Transforms that only move positions about: a mask over positions may be moved with them.
COMMUTES = {"identity", "local_2", "local_4"}
#: Transforms that change the size of a map.
RESIZES = {"scale_2", "scale_4", "local_2", "local_4"}


class Adapter(nn.Module):
    """r(·): brings the student's maps to the teacher's channels and resolution, level by level.

    A 1x1 convolution where channels differ, nearest upsampling where the teacher's map is larger.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self._pair = pair
        student, teacher = pair.both
        channels = zip(
            (student.channels[i] for i in pair.levels.student),
            (teacher.channels[i] for i in pair.levels.teacher),
            strict=True,
        )
        self.levels = nn.ModuleList(
            nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1) for s, t in channels
        )

    def forward(self, observation: Observation) -> list[TensorPair]:
        """The maps (N, C, H, W) of student and teacher, in float32 or wider, level by level."""
        student, teacher = self._pair.select(observation.student, observation.teacher)
        adapted = []
        for level, ours, theirs in zip(
            self.levels, student.features, teacher.features, strict=True
        ):
            ours = level(ours)
            if ours.shape[-2:] != theirs.shape[-2:]:
                ours = F.interpolate(ours, size=theirs.shape[-2:], mode="nearest")
            adapted.append(ours)
        return [
            (to_float32(s), to_float32(t)) for s, t in zip(adapted, teacher.features, strict=True)
        ]


class FeatureKind(Kind):
    """Knowledge of the paired maps, which any two detectors with a neck share."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return None

    def parts(self) -> Mapping[str, Callable[[], nn.Module]]:
        return {"adapter": lambda: Adapter(self.pair)}

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        maps = seen["adapter"]
        strides = self.pair.levels.strides
        parts = levels_in_parts(maps, observation.shapes, strides)
        return self.compare(maps, observation.boxes, parts)

    @abstractmethod
    def compare(
        self, maps: list[TensorPair], boxes: list[Tensor], parts: list[list[Part]]
    ) -> Tensor:
        """The loss of the paired maps; ``boxes``: ground truth an image, in pixels of the input.

        ``parts``: where there is an image, level by level.
        """


class Global(FeatureKind):
    """``global``: the whole maps."""

    def compare(
        self, maps: list[TensorPair], boxes: list[Tensor], parts: list[list[Part]]
    ) -> Tensor:
        return over_levels(self.term, maps, parts)


class ForegroundBackground(FeatureKind):
    """``fgbg``: the maps under the mask of the ground-truth boxes, and under its complement."""

    #: Whether a part weighs by its area.
    by_area = False

    def compare(
        self, maps: list[TensorPair], boxes: list[Tensor], parts: list[list[Part]]
    ) -> Tensor:
        """Two distances a level, each a mean over its own part of all processes' images.

        As means over the whole map, the two would weigh by area: with 2 % of the cells under boxes,
        the foreground would be 1/27 of the background. The authors' release weighs each box by the
        inverse of its own area instead, and the background by its own; cells of all boxes alike
        were no worse in trainings. Transforms that a mask may move with are applied once for both.
        """
        losses = []
        for pair, level, stride in zip(maps, parts, self.pair.levels.strides, strict=True):
            size = pair[1].shape[-2], pair[1].shape[-1]
            mask = foreground(boxes, size, stride).to(pair[1].dtype)
            cut = [self._masked([part.cut(x) for x in (*pair, mask)]) for part in level]
            shares = [part.share for part in level]
            for factor, one in zip((1, BACKGROUND_WEIGHT), zip(*cut, strict=True), strict=True):
                losses.append(factor * self._distance(list(one), shares))
        return torch.stack(losses).sum()

    def _masked(self, tensors: list[Tensor]) -> list[Weighted]:
        """The transformed maps under the mask, and under its complement."""
        shared = list(takewhile(COMMUTES.__contains__, self.term.applied))
        apart = self.term.applied[len(shared) :]
        student, teacher, mask = tensors
        (student, teacher), (mask, _) = (
            transformed(shared, pair) for pair in ((student, teacher), (mask, mask))
        )
        found = []
        for cells in (mask, 1 - mask):
            pair, weight = (student * cells, teacher * cells), None if self.by_area else cells
            found.append(weighted(apart, pair, weight))
        return found

    def _distance(self, parts: list[Weighted], shares: list[float]) -> Tensor:
        distance = PART_DISTANCES[self.term.distance]
        if len(parts) == 1:
            return distance(*parts[0])
        if self.by_area:
            each = zip(shares, parts, strict=True)
            return torch.stack([share * distance(*part) for share, part in each]).sum()
        if distance is ssim:  # a window must not see what fills a map up
            parts = [(ssim_values(s, t), torch.zeros_like(s), weight) for s, t, weight in parts]
            distance = l1
        return distance(*filled_up(parts))


class ForegroundBackgroundByArea(ForegroundBackground):
    """``fgbg_area``: as ``fgbg``, with both distances as means over the whole map.

    The two parts then weigh by their areas: what ``fgbg`` was before version 0.2.
    """

    by_area = True


class Instance(FeatureKind):
    """``instance``: RoIAlign crops of the ground-truth boxes, from every level."""

    def compare(
        self, maps: list[TensorPair], boxes: list[Tensor], parts: list[list[Part]]
    ) -> Tensor:
        """A mean over the crops of all processes; a zero with a graph for a batch without boxes.

        Where there is no box, a crop of zeros that does not count stands in, so that every process
        takes part in the sums over processes.
        """
        graph = torch.stack([student.flatten()[:0].sum() for student, _ in maps]).sum()
        count = sum(len(image_boxes) for image_boxes in boxes)
        if not count:
            boxes = [boxes[0].new_tensor([[0.0, 0.0, 1.0, 1.0]]), *boxes[1:]]
            maps = [
                (torch.zeros_like(student), torch.zeros_like(teacher)) for student, teacher in maps
            ]
        cropped = []
        for pair, level, stride in zip(maps, parts, self.pair.levels.strides, strict=True):
            sides = [
                torch.cat([crops(part.cut(side), part.of(boxes), stride) for part in level])
                for side in pair
            ]
            cropped.append((sides[0], sides[1]))
        one = cropped[0][0][:, :1]
        weight = torch.ones_like(one) if count else torch.zeros_like(one)
        distance = PART_DISTANCES[self.term.distance]
        losses = [distance(*weighted(self.term.applied, pair, weight)) for pair in cropped]
        return torch.stack(losses).sum() + graph


def levels_in_parts(
    maps: Sequence[TensorPair], shapes: Shapes, strides: Sequence[int]
) -> list[list[Part]]:
    """Where there is an image in each level of paired maps (N, C, H, W)."""
    return [
        parts_of(shapes, student.shape[-2:], stride)
        for (student, _), stride in zip(maps, strides, strict=True)
    ]


def over_levels(term: Term, pairs: list[TensorPair], parts: list[list[Part]]) -> Tensor:
    """The distance after the three feature transforms, summed over levels.

    For images of unlike sizes it is the mean over images, but for ``pearson``, whose statistics go
    over all cells of all images.
    """
    distance = MAP_DISTANCES[term.distance]
    losses = []
    for pair, level in zip(pairs, parts, strict=True):
        cut = [(part.cut(pair[0]), part.cut(pair[1])) for part in level]
        sides = [transformed(term.applied, one) for one in cut]
        if len(level) == 1:
            losses.append(distance(*sides[0]))
        elif distance is pearson:
            losses.append(distance(*in_a_row(sides)))
        else:
            each = zip(level, sides, strict=True)
            losses += [part.share * distance(*one) for part, one in each]
    return torch.stack(losses).sum()


def in_a_row(pairs: list[TensorPair]) -> TensorPair:
    """Maps of unlike sizes as one sample: all cells of all samples in a row, (1, C, M)."""
    first, second = (
        torch.cat([side.flatten(2).transpose(0, 1).flatten(1) for side in sides], dim=1)
        for sides in zip(*pairs, strict=True)
    )
    return first.unsqueeze(0), second.unsqueeze(0)


def filled_up(parts: list[Weighted]) -> Weighted:
    """Weighted maps of unlike sizes as one batch; the weight of what fills a map up is 0."""
    rows, columns = (max(part[0].shape[axis] for part in parts) for axis in (-2, -1))

    def fill(tensors: Iterable[Tensor | None]) -> Tensor:
        return torch.cat(
            [
                F.pad(x, (0, columns - x.shape[-1], 0, rows - x.shape[-2]))
                for x in tensors
                if x is not None
            ]
        )

    student, teacher, weight = (fill(side) for side in zip(*parts, strict=True))
    return student, teacher, weight


def weighted(names: Iterable[str], pair: TensorPair, weight: Tensor | None) -> Weighted:
    """Maps after the named transforms, and their weight, which the transforms resize."""
    names = tuple(names)
    if weight is not None:
        weight, _ = transformed(RESIZES.intersection(names), (weight, weight))
    student, teacher = transformed(names, pair)
    return student, teacher, weight


def transformed(names: Iterable[str], pair: TensorPair) -> TensorPair:
    """Student's and teacher's maps after the named transforms."""
    for name in names:
        pair = FEATURE_TRANSFORMS[name](*pair)
    return pair
