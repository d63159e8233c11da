"""Knowledge of feature maps: ``global``, ``fgbg`` and ``instance`` (DetKDS, Section 3.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import to_float32
from ..space import Term
from .distances import MAP_DISTANCES, PART_DISTANCES, Distance
from .kind import Kind
from .observe import Observation
from .pairing import Pair
from .regions import crops, foreground
from .transforms import FEATURE_TRANSFORMS, TensorPair

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
        return self.compare(seen["adapter"], observation.boxes)

    @abstractmethod
    def compare(self, maps: list[TensorPair], boxes: list[Tensor]) -> Tensor:
        """The loss of the paired maps; ``boxes``: ground truth an image, in pixels of the input."""


class Global(FeatureKind):
    """``global``: the whole maps."""

    def compare(self, maps: list[TensorPair], boxes: list[Tensor]) -> Tensor:
        return over_levels(self.term, maps)


class ForegroundBackground(FeatureKind):
    """``fgbg``: the maps under the mask of the ground-truth boxes, and under its complement."""

    #: Whether a part weighs by its area.
    by_area = False

    def compare(self, maps: list[TensorPair], boxes: list[Tensor]) -> Tensor:
        """Two distances a level, each a mean over its own part of all processes' images.

        As means over the whole map, the two would weigh by area: with 2 % of the cells under boxes,
        the foreground would be 1/27 of the background. The authors' release weighs each box by the
        inverse of its own area instead, and the background by its own; cells of all boxes alike
        were no worse in trainings. Transforms that a mask may move with are applied once for both.
        """
        shared = list(takewhile(COMMUTES.__contains__, self.term.applied))
        apart = self.term.applied[len(shared) :]
        distance = PART_DISTANCES[self.term.distance]
        losses = []
        for pair, stride in zip(maps, self.pair.levels.strides, strict=True):
            size = pair[1].shape[-2], pair[1].shape[-1]
            mask = foreground(boxes, size, stride).to(pair[1].dtype)
            (student, teacher), (mask, _) = (transformed(shared, p) for p in (pair, (mask, mask)))
            for factor, cells in ((1, mask), (BACKGROUND_WEIGHT, 1 - mask)):
                part, weight = (student * cells, teacher * cells), None if self.by_area else cells
                losses.append(factor * compared(distance, apart, part, weight))
        return torch.stack(losses).sum()


class ForegroundBackgroundByArea(ForegroundBackground):
    """``fgbg_area``: as ``fgbg``, with both distances as means over the whole map.

    The two parts then weigh by their areas: what ``fgbg`` was before version 0.2.
    """

    by_area = True


class Instance(FeatureKind):
    """``instance``: RoIAlign crops of the ground-truth boxes, from every level."""

    def compare(self, maps: list[TensorPair], boxes: list[Tensor]) -> Tensor:
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
        cropped = [
            (crops(student, boxes, stride), crops(teacher, boxes, stride))
            for (student, teacher), stride in zip(maps, self.pair.levels.strides, strict=True)
        ]
        one = cropped[0][0][:, :1]
        weight = torch.ones_like(one) if count else torch.zeros_like(one)
        return over_levels(self.term, cropped, weight) + graph


def over_levels(term: Term, pairs: list[TensorPair], weight: Tensor | None = None) -> Tensor:
    """The distance after the three feature transforms, summed over levels.

    ``weight``: 1 for the positions of every level that count, else 0, (N, 1, H, W); None: all do.
    """
    distances = MAP_DISTANCES if weight is None else PART_DISTANCES
    distance = distances[term.distance]
    return torch.stack([compared(distance, term.applied, p, weight) for p in pairs]).sum()


def compared(
    distance: Distance, names: Iterable[str], pair: TensorPair, weight: Tensor | None
) -> Tensor:
    """A distance of maps after the named transforms, which resize the weight as well."""
    names = tuple(names)
    if weight is not None:
        weight, _ = transformed(RESIZES.intersection(names), (weight, weight))
    return distance(*transformed(names, pair), weight)


def transformed(names: Iterable[str], pair: TensorPair) -> TensorPair:
    """Student's and teacher's maps after the named transforms."""
    for name in names:
        pair = FEATURE_TRANSFORMS[name](*pair)
    return pair
