"""CrossKD (Wang et al., CVPR 2024): the student's head continued by the teacher's frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import CrossHead, DensePredictions, Knowledge, to_float32
from ..space import IDENTITY, POSITIONS, Term
from .box_distances import BOX_DISTANCES
from .kind import Kind
from .observe import Needs, Observation
from .pairing import Pair, response_mismatch, useless_quality_focal
from .pieces import Pieces
from .processes import mean_over_processes, moments_over_processes
from .responses import classification, count_positives, counted_like
from .scores import Vectors, quality_focal

EPSILON = 1e-6
#: The most that :func:`aligned` enlarges a channel by, in units of what it enlarges the map by.
MOST = 10.0
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

    Mean and deviation are over H, W and the images of all processes: in the authors' release, of
    one process; no formula of the paper says anything of it. Gradients that are accumulated over
    batches are not those of one larger batch, and padding counts in both statistics. They are
    computed in float32 or wider; the result has the teacher's type, which the teacher's layers
    read.

    A channel and its gradient are multiplied by the ratio of the teacher's deviation to the
    student's. For a dead channel, whose deviation is about 0, the ratio is a thousand (a million in
    the release): its gradient outweighs all other channels' and overflows in float16. So the ratio
    is at most ten times the ratio of the two maps' deviations (the roots of the mean variance of
    the channels): a dead channel gets a tenfold gradient. The bound is relative, so that a map
    whose channels are all small, as a head's maps are at first, is aligned in full, and so is a
    channel that is small in both maps.
    """
    own, known = to_float32(student), to_float32(teacher)
    (ours, ours_mean), (theirs, theirs_mean) = moments_over_processes(own, known)
    scale = ((theirs + EPSILON) / (ours + EPSILON)).sqrt()
    of_maps = ((theirs.mean() + EPSILON) / (ours.detach().mean() + EPSILON)).sqrt()
    scale = scale.clamp(max=MOST * of_maps)
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
    """``cross_logits``: class scores, D_pred of formula (3).

    Quality focal loss is summed, and divided by the number of positives, for FCOS by the sum of
    their centerness, as in the authors' release. S(·) is 1, but 0 at ignored and padding positions;
    the paper does not speak of these, and the release leaves them out for every head but FCOS.
    """

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        return cls.cross_mismatch(pair, boxes=False)

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        ours, theirs = (side.logits for side in seen[self._part])
        student = observation.student
        scores = Vectors.of(IDENTITY, ours, theirs, counted_like(student, ours))
        if self.term.distance == "quality_focal":
            return scores.sum_of_elements(quality_focal) / _divisor(student)
        return classification(self.term.distance, scores, student)


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

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        cross, teacher = seen[self._part]
        bins = self.term.distance == "kl"
        pieces = Pieces(
            *(cross.regressed, teacher.regressed, teacher.logits),
            counted_like(observation.student, teacher.logits),
            reads=() if bins else (cross.read, teacher.read),
        )
        losses = _bins_kl if bins else partial(_boxes, BOX_DISTANCES[self.term.distance])

        def sums(ours: Tensor, theirs: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
            weight = self._confidence(logits) * counted
            return torch.stack([_weighted(losses(ours, theirs), weight), weight.sum()])

        loss, total = pieces.each(sums)
        if bins:
            return loss / mean_over_processes(total).clamp(min=EPSILON)
        return loss / _divisor(observation.student)

    def _confidence(self, logits: Tensor) -> Tensor:
        """The highest class score (N, 1, M) of logits (N, K, M)."""
        responses = self.pair.student.responses
        assert responses is not None
        if responses.scores == "sigmoid":
            return logits.sigmoid().amax(dim=1, keepdim=True)
        return logits.softmax(dim=1)[:, :-1].amax(dim=1, keepdim=True)  # without the background's


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
