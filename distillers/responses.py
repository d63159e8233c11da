"""Knowledge of what heads respond: ``logits`` and ``localization`` (DetKDS, Section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..detectors import Levels, to_float32
from .distances import BOX_DISTANCES, DISTANCES, quality_focal
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .transforms import RESPONSE_TRANSFORMS, TensorPair


class ResponseKind(Kind):
    """Knowledge of responses, which heads that line up share."""

    needs = Needs(responses=True)

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        return useless_quality_focal(pair)

    def transformed(self, student: Levels, teacher: Levels) -> TensorPair:
        """All levels side by side, (N, C, M), after the one response transform."""
        ours, theirs = to_float32(torch.cat(student, dim=2)), to_float32(torch.cat(teacher, dim=2))
        return RESPONSE_TRANSFORMS[self.term.transforms[0]](ours, theirs)


class Logits(ResponseKind):
    """``logits``: class logits of all positions, or of the student's regions."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=False)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        student, teacher = self.pair.select(observation.student, observation.teacher)
        ours, theirs = self.transformed(student.logits, teacher.logits)
        return classification(self.term.distance, ours, theirs, student.positives)


class Localization(ResponseKind):
    """``localization``: regression responses, where the student has positives."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return response_mismatch(pair, boxes=True)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        """Mean over the student's positives; a negative side, left by ``identity``, counts as 0."""
        student, teacher = self.pair.select(observation.student, observation.teacher)
        ours, theirs = self.transformed(student.localization, teacher.localization)
        ours, theirs = ours.clamp(min=0).transpose(1, 2), theirs.clamp(min=0).transpose(1, 2)
        positives = torch.cat(student.positives, dim=1).to(ours.dtype)
        losses = BOX_DISTANCES[self.term.distance](ours, theirs)
        return (losses * positives).sum() / positives.sum().clamp(min=1)


def classification(distance: str, student: Tensor, teacher: Tensor, positives: Levels) -> Tensor:
    """A distance of logits on all positions (N, K, M).

    Quality focal loss is summed and divided by the number of positives, as dense detectors train
    with it; CrossKD's formula (3), read to the letter, would divide by all positions, mostly
    background.
    """
    if distance == "quality_focal":
        count = torch.cat(positives, dim=1).to(student.dtype).sum().clamp(min=1)
        return quality_focal(student, teacher).sum() / count
    return DISTANCES[distance](student, teacher)
