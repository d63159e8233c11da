"""Knowledge of what heads respond: ``logits`` and ``localization`` (DetKDS, Section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..detectors import Knowledge, Levels, places_of, to_float32
from .box_distances import BOX_DISTANCES
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .pieces import Pieces
from .processes import mean_over_processes
from .response_transforms import RESPONSE_TRANSFORMS
from .scores import SCORE_DISTANCES, Vectors, counts_of, quality_focal


class ResponseKind(Kind):
    """Knowledge of responses, which heads that line up share."""

    needs = Needs(responses=True)

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        return useless_quality_focal(pair)


class Logits(ResponseKind):
    """``logits``: class logits of all positions, or of the student's regions."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=False)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        student, teacher = self.pair.select(observation.student, observation.teacher)
        counted = counted_like(student, student.logits)
        scores = Vectors.of(self.term.transforms[0], student.logits, teacher.logits, counted)
        return classification(self.term.distance, scores, student)


class Localization(ResponseKind):
    """``localization``: regression responses, where the student has positives."""

    needs = Needs(responses=True, places=True)

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=True)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        """Mean over the student's positives, of all processes.

        Boxes are read and transformed at the positives alone. ``softmax_n`` sums over all positions
        that count before.
        """
        student, teacher = self.pair.select(observation.student, observation.teacher)
        places = student.places or places_of(student.positives)
        images = torch.cat([level[:, 0] for level in places])
        transform = RESPONSE_TRANSFORMS[self.term.transforms[0]]
        statistics = transform.statistics(*_all_boxes(student, teacher))
        rows = []
        for index, side in enumerate((student, teacher)):
            boxes = boxes_at(side, places)
            own = (_of_images(statistic[index], images) for statistic in statistics)
            rows.append(transform.apply(boxes, *own).transpose(1, 2))
        losses = BOX_DISTANCES[self.term.distance](*rows)
        return losses.sum() / count_positives(student.positives)


def _all_boxes(student: Knowledge, teacher: Knowledge) -> tuple[Pieces, Tensor]:
    """The boxes of all priors of both, and how many priors count in an image."""
    counted = counted_like(student, student.localization)
    sides = student.localization, teacher.localization, counted
    return Pieces(*sides, reads=(student.read, teacher.read)), counts_of(counted)


def boxes_at(side: Knowledge, places: Levels) -> Tensor:
    """The distances (1, 4, P) of the priors at ``places``, (image, prior) in a row, P in all."""
    rows = []
    for level, place in zip(side.localization, places, strict=True):
        image, prior = place.unbind(dim=1)
        each = level.flatten(3) if level.dim() > 3 else level.unsqueeze(3)  # (N, R, H·W, A)
        rows.append(each[image, :, prior // each.shape[3], prior % each.shape[3]])
    numbers = to_float32(torch.cat(rows)).T.unsqueeze(0)
    return numbers if side.read is None else side.read(numbers)


def _of_images(statistic: Tensor, images: Tensor) -> Tensor:
    """A statistic (N, C, 1) for each of the images that are named, (1, C, P)."""
    return statistic[images].transpose(0, 2)


def counted_like(student: Knowledge, responses: Levels) -> Levels:
    """True where a prediction counts, (N, 1, *), for responses (N, C, *), level by level."""
    if not student.counted:
        return tuple(torch.ones_like(level[:, :1], dtype=torch.bool) for level in responses)
    return tuple(
        counted.view(len(level), 1, *level.shape[2:])
        for counted, level in zip(student.counted, responses, strict=True)
    )


def count_positives(positives: Levels) -> Tensor:
    """The number of the student's positives, mean over processes and at least 1."""
    total = torch.cat(positives, dim=1).sum().float()
    return mean_over_processes(total).clamp(min=1)


def classification(distance: str, scores: Vectors, student: Knowledge) -> Tensor:
    """A distance of class scores.

    Quality focal loss is summed and divided by the number of positives, as dense detectors train
    with it; CrossKD's formula (3), read to the letter, would divide by all positions, mostly
    background.
    """
    if distance == "quality_focal":
        return scores.sum_of_elements(quality_focal) / count_positives(student.positives)
    return SCORE_DISTANCES[distance](scores)
