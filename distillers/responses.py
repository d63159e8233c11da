"""Knowledge of what heads respond: ``logits`` and ``localization`` (DetKDS, Section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..detectors import Knowledge, Levels, to_float32
from .box_distances import BOX_DISTANCES
from .distances import SCORE_DISTANCES, quality_focal
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .processes import mean_over_processes
from .transforms import transformed_responses


class ResponseKind(Kind):
    """Knowledge of responses, which heads that line up share."""

    needs = Needs(responses=True)

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        return useless_quality_focal(pair)

    def transformed(
        self, student: Knowledge, ours: Levels, theirs: Levels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All levels side by side, (N, C, M), after the one response transform, and what counts."""
        first, second = (to_float32(torch.cat(levels, dim=2)) for levels in (ours, theirs))
        weight = counted(student, first)
        return transformed_responses(self.term.transforms[0], first, second, weight)


class Logits(ResponseKind):
    """``logits``: class logits of all positions, or of the student's regions."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=False)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        student, teacher = self.pair.select(observation.student, observation.teacher)
        responses = self.transformed(student, student.logits, teacher.logits)
        return classification(self.term.distance, *responses, student.positives)


class Localization(ResponseKind):
    """``localization``: regression responses, where the student has positives."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=True)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        """Mean over the student's positives, of all processes."""
        student, teacher = self.pair.select(observation.student, observation.teacher)
        ours, theirs, _ = self.transformed(student, student.localization, teacher.localization)
        losses = BOX_DISTANCES[self.term.distance](ours.transpose(1, 2), theirs.transpose(1, 2))
        positives = torch.cat(student.positives, dim=1)
        return torch.where(positives, losses, 0).sum() / count_positives(student.positives)


def counted(student: Knowledge, scores: Tensor) -> Tensor:
    """True where a prediction of any level counts, (N, 1, M), for class scores (N, K, M)."""
    if not student.counted:
        return torch.ones_like(scores[:, :1], dtype=torch.bool)
    return torch.cat(student.counted, dim=1).unsqueeze(1)


def count_positives(positives: Levels) -> Tensor:
    """The number of the student's positives, mean over processes and at least 1."""
    total = torch.cat(positives, dim=1).sum().float()
    return mean_over_processes(total).clamp(min=1)


def classification(
    distance: str, student: Tensor, teacher: Tensor, weight: Tensor, positives: Levels
) -> Tensor:
    """A distance of class scores (N, K, M), or of their reshaped vectors.

    ``weight``: True where a prediction counts, (N, 1, M). Quality focal loss is summed and divided
    by the number of positives, as dense detectors train with it; CrossKD's formula (3), read to the
    letter, would divide by all positions, mostly background.
    """
    if distance == "quality_focal":
        losses = torch.where(weight, quality_focal(student, teacher), 0)
        return losses.sum() / count_positives(positives)
    return SCORE_DISTANCES[distance](student, teacher, weight)
