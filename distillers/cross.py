"""CrossKD's kinds: the predictions of a crossed head against the teacher's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import DensePredictions, Knowledge, Levels
from ..space import IDENTITY, POSITIONS, Term
from .box_distances import BOX_DISTANCES
from .crossing import EPSILON, Crossing, Sums, counted_of
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .pieces import Pieces
from .processes import mean_over_processes
from .responses import count_positives
from .scores import SCORE_DISTANCES, Totals, Vectors, counts_of, quality_focal


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

    def join(self, parts: nn.ModuleDict) -> None:
        cast(Crossing, parts[self._part]).ask(self.term.knowledge, self.sums)

    @abstractmethod
    def sums(self, observation: Observation) -> Sums:
        """Makes the sums of which :meth:`loss` makes the batch's loss."""

    def summed(self, seen: Mapping[str, Any]) -> Tensor:
        """The sums of the whole batch."""
        found: Tensor = seen[self._part][self.term.knowledge]
        return found


class CrossLogits(CrossKind):
    """``cross_logits``: class scores, D_pred of formula (3).

    Quality focal loss is summed, and divided by the number of positives, for FCOS by the sum of
    their centerness, as in the authors' release. S(·) is 1, but 0 at ignored and padding positions;
    the paper does not speak of these, and the release leaves them out for every head but FCOS.
    """

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return cls.cross_mismatch(pair, boxes=False)

    def sums(self, observation: Observation) -> Sums:
        totals = Totals.of(counts_of(counted_of(observation.student)))
        distance = SCORE_DISTANCES.get(self.term.distance, _quality_focal)

        def of_images(
            cross: DensePredictions, teacher: DensePredictions, counted: Levels
        ) -> Tensor:
            scores = Vectors.of(IDENTITY, cross.logits, teacher.logits, counted, totals)
            return distance(scores).view(1)

        return of_images

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        (loss,) = self.summed(seen)
        if self.term.distance == "quality_focal":
            return loss / _divisor(observation.student)
        return loss


class CrossLocalization(CrossKind):
    """``cross_localization``: boxes, or bins of distributions (formula 6), at all positions.

    Paper and release differ, and this is the release's loss, which the published APs come from:

    - S(r) of Section 3.2 is 1 at the student's positives and 0 elsewhere. In the release it is, for
      every head, the teacher's highest class score at r; 0 at ignored and padding positions (here
      at those of FCOS, too).
    - |S| is the sum of S in formula (3), and for the bins in the release. The release divides
      boxes' losses by the number of positives, FCOS's by the sum of the positives' centerness.
      Here each is the mean over processes; in the release RetinaNet's and the bins' are not.
    - The bins' divergence is the mean over the four sides, as in the release, whose weight is 4:
      ``crosskd_gfl`` has that weight. Formula (6) is for one side.
    - FCOS's boxes are compared by GIoU in the paper, by -log IoU (``log_iou``) in the release.
    - For ATSS the release adds the cross-entropy of centerness, at a weight of 1. It is left out:
      formula (4) has the classes' and the boxes' loss alone, and the release's FCOS, whose head
      predicts centerness too, has no such loss.
    """

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

    @property
    def _of_bins(self) -> bool:
        return self.term.distance == "kl"

    def sums(self, observation: Observation) -> Sums:
        bins = self._of_bins
        losses = _bins_kl if bins else partial(_boxes, BOX_DISTANCES[self.term.distance])

        def sums(ours: Tensor, theirs: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
            weight = self._confidence(logits) * counted
            return torch.stack([_weighted(losses(ours, theirs), weight), weight.sum()])

        def of_images(
            cross: DensePredictions, teacher: DensePredictions, counted: Levels
        ) -> Tensor:
            sides = cross.regressed, teacher.regressed, teacher.logits, counted
            reads = () if bins else (cross.read, teacher.read)
            return Pieces(*sides, reads=reads).each(sums)

        return of_images

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        loss, total = self.summed(seen)
        if self._of_bins:
            return loss / mean_over_processes(total).clamp(min=EPSILON)
        return loss / _divisor(observation.student)

    def _confidence(self, logits: Tensor) -> Tensor:
        """The highest class score (N, 1, M) of logits (N, K, M)."""
        responses = self.pair.student.responses
        assert responses is not None
        if responses.scores == "sigmoid":
            return logits.sigmoid().amax(dim=1, keepdim=True)
        return logits.softmax(dim=1)[:, :-1].amax(dim=1, keepdim=True)  # without the background's


def _quality_focal(scores: Vectors) -> Tensor:
    return scores.sum_of_elements(quality_focal)


def _divisor(student: Knowledge) -> Tensor:
    """The number of the student's positives.

    Both losses of FCOS are divided by the sum of its positives' centerness, as in the release.
    """
    if student.centerness is None:
        return count_positives(student.positives)
    return mean_over_processes(student.centerness).clamp(min=1)


def _boxes(distance: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    """A distance of boxes (N, 4, M), (N, 1, M)."""
    return distance(student.transpose(1, 2), teacher.transpose(1, 2)).unsqueeze(1)


def _weighted(losses: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum; a loss that does not count may be infinite."""
    return (torch.where(weight > 0, losses, 0) * weight).sum()


def _bins_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the four sides' bins (N, 4·R, M) at a temperature of 1: (N, 1, M).

    Mean over the four sides.
    """
    n, _, m = student.shape
    log_q, log_p = (side.view(n, 4, -1, m).log_softmax(dim=2) for side in (student, teacher))
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=2)
    return divergence.mean(dim=1, keepdim=True)
