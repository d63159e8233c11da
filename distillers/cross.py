"""CrossKD (Wang et al., CVPR 2024): the student's head continued by the teacher's frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import CrossHead, DensePredictions, to_float32
from ..space import IDENTITY, POSITIONS, Term
from .distances import BOX_DISTANCES
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .responses import classification, counted

EPSILON = 1e-6
#: What the student's map becomes behind the teacher's layers, and what the teacher predicts.
CrossedPair = tuple[DensePredictions, DensePredictions]


def position_of(term: Term, pair: Pair) -> int:
    """The paper's i: the layer of the student's head after which a term hands over.

    By default the last stacked convolution but one that both heads have: the paper's i = 3 of
    four. n, the number of both heads' layers, stands for their own predictions.
    """
    (name,) = term.transforms
    if name != IDENTITY:
        return _after(name)
    student, teacher = pair.both
    assert student.layers is not None
    assert teacher.layers is not None
    return max(min(student.layers.count, teacher.layers.count) - 2, 0)


def _after(name: str) -> int:
    """The layer that an option such as ``after_3`` names."""
    return int(name.removeprefix("after_"))


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map (N, C, H, W) with the teacher's mean and deviation of each channel.

    Mean and deviation are over N, H and W, as in the authors' release; no formula of the paper says
    so. They are computed in float32 or wider; the result has the teacher's type, which the
    teacher's layers read.
    """
    own, known = to_float32(student), to_float32(teacher)
    ours, ours_mean = torch.var_mean(own, (0, 2, 3), correction=0, keepdim=True)
    theirs, theirs_mean = torch.var_mean(known, (0, 2, 3), correction=0, keepdim=True)
    scale = ((theirs + EPSILON) / (ours + EPSILON)).sqrt()
    return ((own - ours_mean) * scale + theirs_mean).to(teacher.dtype)


class Crossing(nn.Module):
    """The student's head up to layer i, the teacher's layers after it.

    Between heads of unequal widths r(·), a 1x1 convolution for each branch, comes first. The
    teacher's head is no submodule: it is frozen and in no checkpoint. At i = n, behind the last
    layer, the student's own predictions are compared.
    """

    def __init__(self, pair: Pair, position: int) -> None:
        super().__init__()
        student, teacher = pair.both
        assert student.layers is not None
        assert teacher.layers is not None
        self._position = position
        self._inside = position < student.layers.count
        self._head = CrossHead(pair.head, position if self._inside else 0)
        self.adapters = nn.ModuleList()
        if self._inside:
            s, t = student.layers.channels[position], teacher.layers.channels[position]
            for _branch in range(2):
                self.adapters.append(nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1))

    def forward(self, observation: Observation) -> CrossedPair:
        """What the teacher's layers predict from the student's maps, and from the teacher's own."""
        with torch.no_grad():
            before = self._head.before(observation.teacher.features)
            teacher = self._head.after(before)
        if not self._inside:
            assert observation.student.predictions is not None
            return observation.student.predictions, teacher
        first, second = (
            tuple(aligned(adapter(ours), theirs) for ours, theirs in zip(*branches, strict=True))
            for adapter, *branches in zip(
                self.adapters, observation.student.hidden[self._position], before, strict=True
            )
        )
        return self._head.after((first, second)), teacher


class CrossKind(Kind):
    """Knowledge of cross-head predictions, which dense heads with stacked convolutions share."""

    def __init__(self, term: Term, pair: Pair) -> None:
        super().__init__(term, pair)
        self.position = position_of(term, pair)
        self.needs = Needs(positives=True, positions=frozenset({self.position}))

    @classmethod
    def cross_mismatch(cls, pair: Pair, boxes: bool) -> str | None:
        """Why the pair can't be compared by cross-head predictions, or None."""
        student, teacher = pair.both
        for side in (student, teacher):
            if side.layers is None:
                return f"{side.name} {side.unlayered}"
        if student.strides != teacher.strides:
            return (
                f"{student.name} has levels of stride {list(student.strides)} and {teacher.name} "
                f"of {list(teacher.strides)}"
            )
        return response_mismatch(pair, boxes)

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        found = useless_quality_focal(pair)
        student, teacher = pair.both
        if student.layers is None or teacher.layers is None:
            return found
        ours, theirs = student.layers.count, teacher.layers.count
        least = min(ours, theirs)
        for name in POSITIONS[1:]:
            if _after(name) >= least and not _after(name) == ours == theirs:
                found[name] = (
                    f"the heads of {student.name} and {teacher.name} have {ours} and {theirs} "
                    f"layers: give after_0 to after_{least - 1}"
                )
        return found

    @property
    def _part(self) -> str:
        return f"cross_{self.position}"

    def parts(self) -> Mapping[str, Callable[[], nn.Module]]:
        return {self._part: lambda: Crossing(self.pair, self.position)}


class CrossLogits(CrossKind):
    """``cross_logits``: class scores, D_pred of formula (3)."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return cls.cross_mismatch(pair, boxes=False)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        ours, theirs = (torch.cat(side.logits, dim=2) for side in seen[self._part])
        student = observation.student
        weight = counted(student, ours)
        return classification(self.term.distance, ours, theirs, weight, student.positives)


class CrossLocalization(CrossKind):
    """``cross_localization``: boxes, where the student has positives, or bins (formula 6)."""

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return cls.cross_mismatch(pair, boxes=True)

    @classmethod
    def excluded(cls, pair: Pair) -> dict[str, str]:
        found = super().excluded(pair)
        student, teacher = pair.both
        if student.layers is None or teacher.layers is None:
            return found
        bins = student.layers.bins, teacher.layers.bins
        if not bins[0] == bins[1] > 0:
            found["kl"] = (
                f"it compares the bins of distributions, and {student.name}'s head answers "
                f"{bins[0]} and {teacher.name}'s {bins[1]} of them"
                if any(bins)
                else "it compares the bins of distributions, and the heads answer none"
            )
        return found

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        cross, teacher = seen[self._part]
        if self.term.distance == "kl":
            confidence = torch.cat(teacher.logits, dim=2).sigmoid().amax(dim=1)
            bins = torch.cat(cross.bins, dim=2), torch.cat(teacher.bins, dim=2)
            return _bins_kl(*bins, confidence)
        ours, theirs = (torch.cat(side.sides, dim=2).transpose(1, 2) for side in (cross, teacher))
        losses = BOX_DISTANCES[self.term.distance](ours, theirs)
        weight = torch.cat(observation.student.positives, dim=1).to(losses.dtype)
        return (losses * weight).sum() / weight.sum().clamp(min=1)


def _bins_kl(student: Tensor, teacher: Tensor, confidence: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the four sides' bins (N, 4·R, M), formula (6) at a temperature of 1.

    Mean over sides and positions, weighted by the teacher's highest class score (N, M).
    """
    n, _, m = student.shape
    log_q, log_p = (side.view(n, 4, -1, m).log_softmax(dim=2) for side in (student, teacher))
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=2).mean(dim=1)
    return (divergence * confidence).sum() / confidence.sum().clamp(min=EPSILON)
