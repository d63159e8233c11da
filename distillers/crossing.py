"""CrossKD (Wang et al., CVPR 2024): the student's head continued by the teacher's frozen layers.

A full-size batch has gigabytes of predictions. They are made of a few images at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import CrossHead, DensePredictions, Knowledge, Levels, to_float32
from .observe import Observation
from .pairing import Pair
from .pieces import Images
from .processes import moments_over_processes

EPSILON = 1e-6
#: The most that :func:`alignment` enlarges a channel by, in units of what it enlarges the map by.
MOST = 10.0
#: The numbers of the teacher's maps at the hand-over that are kept; larger maps are computed again.
KEPT = 2**26
#: Sums (S,) over some images of what the student's maps become behind the teacher's layers, of what
#: the teacher predicts, and of what counts, (N, 1, H·W, A) level by level.
Sums = Callable[[DensePredictions, DensePredictions, Levels], Tensor]
#: The maps of both branches, and what makes those at the hand-over of those that are cut.
Branches = tuple[Levels, Levels]
Before = Callable[[Levels, Levels], Branches]
#: What is cut into images: both branches of the student and of the teacher, and what counts.
SIDES = 5


def moments(*maps: Tensor) -> Tensor:
    """Variance and mean of each channel of L maps (N, C, H, W): (2, L, C), float32 or wider."""
    found = [torch.var_mean(to_float32(one), (0, 2, 3), correction=0) for one in maps]
    return torch.stack([torch.stack(part) for part in zip(*found, strict=True)])


def joined(sizes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Makes one map's moments of those of its pieces, (P, 2, L, C), which have so many images."""

    def join(pieces: Tensor) -> Tensor:
        share = pieces.new_tensor(sizes).view(-1, 1, 1) / sum(sizes)
        var, mean = pieces.unbind(dim=1)
        common = (share * mean).sum(dim=0)
        return torch.stack([(share * (var + (mean - common).square())).sum(dim=0), common])

    return join


def alignment(student: Tensor, teacher: Tensor, counts: Sequence[int]) -> Tensor:
    """How :func:`aligned` changes L maps: factor, mean before and mean after, (3, L, C).

    ``student``, ``teacher``: the :func:`moments` of their maps in this process, which are of
    ``counts`` numbers a channel. Mean and deviation are over H, W and the images of all processes:
    in the authors' release, of one process; no formula of the paper says anything of it. Gradients
    that are accumulated over batches are not those of one larger batch, and padding counts in both
    statistics.

    A channel and its gradient are multiplied by the ratio of the teacher's deviation to the
    student's. For a dead channel, whose deviation is about 0, the ratio is a thousand (a million in
    the release): its gradient outweighs all other channels' and overflows in float16. So the ratio
    is at most ten times the ratio of the two maps' deviations (the roots of the mean variance of
    the channels): a dead channel gets a tenfold gradient. The bound is relative, so that a map
    whose channels are all small, as a head's maps are at first, is aligned in full, and so is a
    channel that is small in both maps.
    """
    numbers = student.new_tensor(counts).view(-1, 1)
    (ours, before), (theirs, after) = (
        moments_over_processes(side[0], side[1], numbers) for side in (student, teacher)
    )
    scale = ((theirs + EPSILON) / (ours + EPSILON)).sqrt()
    of_maps = (theirs.mean(1, True) + EPSILON) / (ours.detach().mean(1, True) + EPSILON)
    return torch.stack([scale.clamp(max=MOST * of_maps.sqrt()), before, after])


def aligned(student: Tensor, how: Tensor, dtype: torch.dtype) -> Tensor:
    """A student's map (N, C, H, W) with the teacher's mean and deviation of each channel.

    ``how``: (3, C), see :func:`alignment`. It is computed in float32 or wider; the result has the
    teacher's type, which the teacher's layers read.
    """
    scale, before, after = how.view(3, 1, -1, 1, 1)
    return ((to_float32(student) - before) * scale + after).to(dtype)


class Crossing(nn.Module):
    """The student's head up to layer i, the teacher's layers after it.

    Between heads of unequal widths r(·), a 1x1 convolution for each branch, comes first. The
    teacher's head is no submodule: it is frozen and in no checkpoint. At i = n, behind the last
    layer, the student's own predictions are compared.

    Predictions are those of a few images at a time: of a large batch nothing is held but the maps
    at the hand-over, and each kind gets the sums that it asked for. The alignment is of the batch.
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
        assert student.responses is not None
        #: Numbers of a prior's predictions, and of a map's position.
        bins = student.layers.bins, teacher.layers.bins
        self._width = max(student.responses.classes, *(4 * one for one in bins))
        self._channels = max(teacher.layers.channels)
        self._asked: dict[str, Callable[[Observation], Sums]] = {}

    def ask(self, knowledge: str, sums: Callable[[Observation], Sums]) -> None:
        """Have sums made for a kind of knowledge. ``sums`` looks at the whole batch before."""
        self._asked[knowledge] = sums

    def forward(self, observation: Observation) -> dict[str, Tensor]:
        """The sums (S,) of the whole batch that were asked for, by knowledge."""
        student, predicted = observation.student, observation.student.predictions
        asked = {name: make(observation) for name, make in self._asked.items()}
        counted = counted_of(student)
        if self._inside:
            ours = student.hidden[self._position]
        else:
            assert predicted is not None
            ours = predicted.logits, predicted.regressed
        features = observation.teacher.features
        positions = sum(level[0, 0].numel() for level in features)
        priors = sum(level.shape[1] for level in counted)
        numbers = max(self._width * priors, self._channels * positions)
        theirs, before = self._teachers(features, self._channels * positions * len(features[0]))
        images = Images(*ours, *theirs, counted, numbers=numbers)
        shared: list[Tensor] = []
        if self._inside:
            shared = self._alignments(images, theirs, before, numbers)
            shared += self.adapters.parameters()
        sizes: dict[str, int] = {}

        def sums(
            first: Levels,
            second: Levels,
            third: Levels,
            fourth: Levels,
            counted: Levels,
            *shared: Tensor,
        ) -> Tensor:
            with torch.no_grad():
                known = before(third, fourth)
                teacher = self._head.after(known)
            if self._inside:
                cross = self._head.after(self._handed_over((first, second), known, shared))
            else:
                assert predicted is not None
                cross = replace(predicted, logits=first, regressed=second)
            counts = tuple(
                one.view(len(level), 1, *level.shape[2:])
                for one, level in zip(counted, teacher.logits, strict=True)
            )
            with torch.autocast(counted[0].device.type, enabled=False):
                found = {name: make(cross, teacher, counts) for name, make in asked.items()}
            sizes.update({name: len(value) for name, value in found.items()})
            return torch.cat(list(found.values()))

        found = images.each(sums, *shared)
        return dict(zip(sizes, found.split(list(sizes.values())), strict=True))

    def _teachers(self, features: Levels, numbers: int) -> tuple[Branches, Before]:
        """Maps to cut, and what makes the teacher's maps at the hand-over of a piece of them.

        ``numbers``: how many each branch has at the hand-over.
        """
        if 2 * numbers > KEPT and not torch.compiler.is_compiling():
            return (features, features), lambda maps, _: self._head.before(maps)
        return self._head.before(features), lambda *branches: branches

    def _alignments(
        self, images: Images, theirs: Branches, before: Before, numbers: int
    ) -> list[Tensor]:
        """See :func:`alignment`; of all levels of each branch."""
        join, levels = joined(images.sizes), len(theirs[0])
        with torch.no_grad():
            known = Images(*theirs, numbers=numbers)
            teacher = known.each(lambda *sides: moments(*chain(*before(*sides))), join=join)
        counts = [level[:, 0].numel() for level in theirs[0]]
        found = []
        # Of each branch apart: a branch that no kind compares has no gradient.
        for branch, (adapter, side) in enumerate(
            zip(self.adapters, teacher.split(levels, dim=1), strict=True)
        ):

            def own(*sides: Any, branch: int = branch) -> Tensor:
                return moments(*_adapted(sides[branch], *sides[SIDES:]))

            student = images.each(own, *adapter.parameters(), join=join)
            found.append(alignment(student, side, counts))
        return found

    def _handed_over(self, ours: Branches, theirs: Branches, shared: Sequence[Tensor]) -> Branches:
        """The student's maps as the teacher's layers read them.

        ``shared``: the alignments of both branches, and the adapters' parameters.
        """
        ways, parameters = shared[:2], iter(shared[2:])
        found = []
        for levels, known, how, adapter in zip(ours, theirs, ways, self.adapters, strict=True):
            adapted = _adapted(levels, *(next(parameters) for _ in adapter.parameters()))
            each = zip(adapted, how.unbind(dim=1), known, strict=True)
            found.append(tuple(aligned(own, of, one.dtype) for own, of, one in each))
        first, second = found
        return first, second


def _adapted(levels: Levels, *parameters: Tensor) -> Levels:
    """r(·) of a branch's maps. ``parameters``: the adapter's; none for an identity."""
    if not parameters:
        return levels
    weight, bias = parameters
    return tuple(F.conv2d(level, weight, bias) for level in levels)


def counted_of(student: Knowledge) -> Levels:
    """True where a prediction counts, (N, M), level by level."""
    known = student.positives or tuple(level[:, 0].flatten(1) for level in student.logits)
    return student.counted or tuple(torch.ones_like(x, dtype=torch.bool) for x in known)
