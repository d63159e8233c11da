"""Class scores of one level, for tests of their transforms and distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detkds.distillers import SCORE_DISTANCES
from detkds.distillers.scores import Vectors
from torch import Tensor


def score_distance(name: str) -> Callable[..., Tensor]:
    """The named distance of scores (N, C, *); ``weight``: 1 where a position counts (N, 1, *)."""

    def distance(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        counted = torch.ones_like(student[:, :1]) if weight is None else weight
        return SCORE_DISTANCES[name](Vectors.of("identity", (student,), (teacher,), (counted > 0,)))

    return distance


def transformed_responses(
    name: str, student: Tensor, teacher: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor]:
    """Both sides (N, C, M) after the named transform; 0 where nothing counts."""
    vectors = Vectors.of(name, (student,), (teacher,), (counted,))
    ours, theirs = vectors.each(lambda s, t, *_: torch.stack([s, t]))
    return ours, theirs
