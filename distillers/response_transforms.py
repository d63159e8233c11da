"""The transforms of responses (DetKDS Table 2): applied alike to student and teacher.

Responses are (N, C, M): N images, C channels (classes or the four sides of a box), M positions
(priors or regions) of all levels. A transform is applied to any part of the positions. What it
needs to know of all positions of an image, its statistics, is found before, from pieces.

No transform looks from one image at another. So 16 images in one batch, 8 batches of 2 whose
gradients are accumulated, and 8 processes with 2 images each all give the same loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .pieces import Pieces, least, log_total
from .transforms import EPSILON, normalise

#: Stands for infinity where a result must stay finite.
LARGE = 1e30
#: Of pieces of student, teacher and what counts, and of the number of each image's positions that
#: count (N, 1, 1): statistics (2, N, C or 1, 1), the student's before the teacher's.
Statistics = Callable[[Pieces, Tensor], tuple[Tensor, ...]]


def _no_statistics(pieces: Pieces, counts: Tensor) -> tuple[Tensor, ...]:
    return ()


@dataclass(frozen=True)
class ResponseTransform:
    """One transform of responses."""

    #: Of any positions (N, C, M) of one side, and of the side's statistics (N, C or 1, 1).
    apply: Callable[..., Tensor]
    statistics: Statistics = _no_statistics


def _of_sides(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of one side's piece, what counts, and statistics, for both sides at once."""

    def of_both(student: Tensor, teacher: Tensor, counted: Tensor, *known: Tensor) -> Tensor:
        sides = enumerate((student, teacher))
        return torch.stack([function(side, counted, *(x[i] for x in known)) for i, side in sides])

    return of_both


def norm_n(p: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """``norm_n`` of logits, "norm_batch" in Table 5: each class over the image's N predictions.

    Formula (6) over the predictions that count. A batch of predictions is those of one image.
    """
    return (p - mean) * (variance + EPSILON).rsqrt()


def _moments(pieces: Pieces, counts: Tensor) -> tuple[Tensor, ...]:
    def sums(p: Tensor, counted: Tensor) -> Tensor:
        return torch.where(counted, p, 0).sum(dim=2, keepdim=True)

    def squares(p: Tensor, counted: Tensor, mean: Tensor) -> Tensor:
        return torch.where(counted, p - mean, 0).square().sum(dim=2, keepdim=True)

    counts = counts.clamp(min=1)
    mean = pieces.each(_of_sides(sums)) / counts
    return mean, pieces.each(_of_sides(squares), mean) / counts


def min_max(p: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``min_max`` of logits: each image's numbers that count are moved and scaled into [0, 1]."""
    return (p - low) / (high - low + EPSILON)


def _extremes(pieces: Pieces, counts: Tensor) -> tuple[Tensor, ...]:
    def lowest(p: Tensor, counted: Tensor) -> Tensor:
        both = torch.stack([p, -p]).masked_fill(~counted, LARGE)
        return both.amin(dim=(2, 3), keepdim=True)

    low, high = pieces.each(_of_sides(lowest), join=least).unbind(dim=1)
    return low, -high


def softmax_n(p: Tensor, log_sum: Tensor, counts: Tensor) -> Tensor:
    """``softmax_n`` of boxes: each side's softmax over the image's N predictions, times N.

    With the factor N, as in the attention maps, the mean is 1, however many predictions there are:
    without the factor, areas of 1 / N² fall below any epsilon.
    """
    # What counts is at most its sum. What does not count must not overflow.
    return (p - log_sum).clamp(max=1).exp() * counts


def _log_sums(pieces: Pieces, counts: Tensor) -> tuple[Tensor, ...]:
    def log_sum(p: Tensor, counted: Tensor) -> Tensor:
        return p.masked_fill(~counted, -LARGE).logsumexp(dim=2, keepdim=True)

    return pieces.each(_of_sides(log_sum), join=log_total), torch.stack([counts, counts])


RESPONSE_TRANSFORMS: dict[str, ResponseTransform] = {
    "identity": ResponseTransform(lambda p: p),
    "norm_n": ResponseTransform(norm_n, _moments),
    "norm_c": ResponseTransform(lambda p: normalise(p, (1,))),
    "min_max": ResponseTransform(min_max, _extremes),
    "softmax_n": ResponseTransform(softmax_n, _log_sums),
    "softmax_c": ResponseTransform(lambda p: p.softmax(dim=1)),
    "pow2": ResponseTransform(lambda p: p.square()),
    "sigmoid": ResponseTransform(lambda p: p.sigmoid()),
}
#: The axes of (N, C, M) that a vector of scores lies along, by default a position's classes. They
#: count from the end, where several numbers of each vector stand side by side.
CLASSES, POSITIONS = (-2,), (-1,)
#: Transforms that make other vectors of the same numbers: all numbers of an image are one vector,
#: or the positions of each class.
RESHAPES: dict[str, tuple[int, ...]] = {"reshape_n": (-2, -1), "reshape_c": POSITIONS}
