"""Adaptation costs (MTPD, Section 3.2): how well one detector's features map to another's.

C(A, B) is the L2 loss, on held-out images, of the 1x1 map r(·) from A's features to B's that fits
best. The paper trains every r(·) by SGD; it is a linear map under an L2 loss, so its optimum is
least squares, and the second moments of all models' features, gathered in one pass over the images,
give the costs of all pairs exactly.

The paper does not say what the loss of a pair is whose levels differ, such as Mask R-CNN's strides
4 to 64 and FCOS's 8 to 128. Backward Greedy Selection compares the costs of several A to one B, so
the costs must all speak of the same features, B's, and must not depend on the other models of the
pool. A sum over the levels that A and B share is the lower the fewer they share; a mean over them
compares different levels of B, whose features differ in variance. Here the shared levels tell which
share of B's variance A leaves unexplained, and C(A, B) is this share of the variance of all of B's
levels, per element. If A has all of B's levels, that is the paper's loss, as a mean over levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...detectors import feature_maps, signature
from ...distillers import pair_levels
from ...space import WrongUse

#: (width, height) of the images that a model sees.
Size = tuple[int, int]
#: Positions whose products are summed in single precision before they join the double sums.
CHUNK = 8192
#: The smallest eigenvalue of a model's covariance, as a share of the largest, that single precision
#: can tell from 0. A ridge lifts smaller eigenvalues to this share.
MIN_EIGENVALUE = 1e-7
#: One batch of so many is held out.
HELD_OUT = 5


@dataclass(frozen=True)
class Cost:
    """C(A, B), in squared units of B's features."""

    #: On the held-out images: the cost itself.
    held_out: float
    #: On the images that the map was fitted on.
    fit: float
    #: (fit, held out) of each level that both models have, by stride: the mean squared difference
    #: per element.
    levels: dict[int, tuple[float, float]]


@dataclass
class Moments:
    """Sums of products of models' features at one stride and one size of the maps.

    The size of the sums does not depend on the number of images.
    """

    #: Channels of the level, by the model's name.
    channels: Mapping[str, int]
    #: float64 (2, D, D): of the fitted and of the held-out images. D counts a constant 1, then the
    #: channels of every model.
    sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = 1 + sum(self.channels.values())
        self.sums = torch.zeros(2, size, size, dtype=torch.float64)

    def add(self, maps: Mapping[str, Tensor], size: tuple[int, int], held_out: bool) -> None:
        """Add images. ``maps``: (N, C, H, W) by the model's name; they are resized to ``size``."""
        rows = [_resized(maps[name], size) for name in self.channels]
        joint = torch.cat([f.transpose(0, 1).flatten(1).float() for f in rows])
        joint = torch.cat([torch.ones_like(joint[:1]), joint])
        for chunk in joint.split(CHUNK, dim=1):
            self.sums[int(held_out)] += (chunk @ chunk.T).double().cpu()

    def cost(self, source: str, target: str) -> tuple[float, float]:
        """The loss of the best map, with a bias, on fitted and on held-out images."""
        known, wanted = [0, *self._places(source)], self._places(target)
        weights = self._best_map(source, wanted)
        return tuple(self._loss(split, known, wanted, weights) for split in (0, 1))  # type: ignore[return-value]

    def variance(self, name: str) -> tuple[float, float]:
        """The mean variance of a model's channels on fitted and on held-out images."""
        own = self._places(name)
        means = self.sums[:, 0, own] / self.sums[:, :1, 0]
        squares = self.sums.diagonal(dim1=1, dim2=2)[:, own] / self.sums[:, :1, 0]
        fit, held_out = (squares - means**2).clamp(min=0).mean(1).tolist()
        return fit, held_out

    def _places(self, name: str) -> list[int]:
        start = 1
        for other, channels in self.channels.items():
            if other == name:
                return list(range(start, start + channels))
            start += channels
        raise KeyError(name)

    def _best_map(self, source: str, wanted: list[int]) -> Tensor:
        """Least squares: (1 + channels of the source, wanted channels), the bias first."""
        inputs = self._places(source)
        moments = self.sums[0] / self.sums[0, 0, 0]
        mean, target_mean = moments[0, inputs], moments[0, wanted]
        covariance = moments[inputs][:, inputs] - torch.outer(mean, mean)
        cross = moments[inputs][:, wanted] - torch.outer(mean, target_mean)
        values, vectors = torch.linalg.eigh(covariance)
        ridge = (MIN_EIGENVALUE * values[-1] - values[0]).clamp(min=0)
        weights = vectors @ ((vectors.T @ cross) / (values + ridge + 1e-30)[:, None])
        bias = target_mean - mean @ weights
        return torch.cat([bias[None], weights])

    def _loss(self, split: int, known: list[int], wanted: list[int], weights: Tensor) -> float:
        sums = self.sums[split]
        seen, cross = sums[known][:, known], sums[known][:, wanted]
        errors = (weights * (seen @ weights)).sum(0) - 2 * (weights * cross).sum(0)
        errors = errors + sums.diagonal()[wanted]
        return max(float(errors.sum()), 0.0) / (float(sums[0, 0]) * len(wanted))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, H, W) at another size; smaller maps are repeated, as in training."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    larger = maps.shape[-2] * maps.shape[-1] > size[0] * size[1]
    return F.interpolate(maps, size, mode="area" if larger else "nearest")


@torch.no_grad()
def adaptation_costs(
    models: Mapping[str, Any], sizes: Mapping[str, Size], batches: Mapping[Size, Iterable[Any]]
) -> dict[tuple[str, str], Cost]:
    """The costs of all ordered pairs of frozen models; each model sees each image once.

    ``sizes``: the size of each model's images, by the model's name. ``batches``: for each of these
    sizes, the batches of a data loader of packed images, with the same images everywhere; every
    fifth batch is held out. Each model normalises the pixels by its own preprocessor, and positions
    in the padding do not count. A's maps are resized to B's. Raises :class:`WrongUse` for models
    without a common stride, and for fewer than five batches.
    """
    signatures = {name: signature(model, name) for name, model in models.items()}
    shared = {
        (a, b): pair_levels(signatures[a], signatures[b]).strides
        for a, b in permutations(models, 2)
    }
    strides = {name: one.strides for name, one in signatures.items()}
    # A's maps are needed at B's size: a level's sums are of one size, and of all models.
    moments = {
        (stride, sizes[name]): Moments(
            {
                other: one.channels[one.strides.index(stride)]
                for other, one in signatures.items()
                if stride in one.strides
            }
        )
        for name in models
        for stride in strides[name]
    }
    for index, views in enumerate(zip(*batches.values(), strict=True)):
        raw = dict(zip(batches, views, strict=True))
        seen = {
            name: _images(model, raw[sizes[name]], strides[name]) for name, model in models.items()
        }
        for place, images in enumerate(zip(*seen.values(), strict=True)):
            maps = dict(zip(models, images, strict=True))
            for (stride, size), level in moments.items():
                level.add(
                    {name: maps[name][stride] for name in level.channels},
                    _cells(raw[size]["data_samples"][place], stride),
                    held_out=index % HELD_OUT == HELD_OUT - 1,
                )
    if not all(level.sums[:, 0, 0].all() for level in moments.values()):
        raise WrongUse(f"costs need at least {HELD_OUT} batches of images", "teachers")
    return {
        (a, b): _cost(a, b, both, {s: moments[s, sizes[b]] for s in strides[b]})
        for (a, b), both in shared.items()
    }


def _images(model: Any, raw: Any, strides: tuple[int, ...]) -> Iterator[dict[int, Tensor]]:
    """A model's maps of each image, (1, C, H, W) by stride, without the padding."""
    data = model.eval().data_preprocessor(raw, False)
    levels = dict(
        zip(strides, feature_maps(model, data["inputs"], data["data_samples"]), strict=True)
    )
    for place, sample in enumerate(data["data_samples"]):
        cells = {stride: _cells(sample, stride) for stride in levels}
        yield {
            stride: level[place : place + 1, :, : cells[stride][0], : cells[stride][1]]
            for stride, level in levels.items()
        }


def _cells(sample: Any, stride: int) -> tuple[int, int]:
    """Rows and columns of the positions that an image covers without its padding."""
    height, width = sample.img_shape
    return -(-height // stride), -(-width // stride)


def _cost(
    source: str, target: str, shared: tuple[int, ...], moments: Mapping[int, Moments]
) -> Cost:
    """``moments``: those of the target's levels, by stride. ``shared``: strides of both models."""
    levels = {stride: moments[stride].cost(source, target) for stride in shared}
    spread = {stride: moments[stride].variance(target) for stride in moments}

    def whole(split: int) -> float:
        left = _mean(pair[split] for pair in levels.values())
        known = _mean(spread[stride][split] for stride in shared)
        all_levels = _mean(pair[split] for pair in spread.values())
        return left * all_levels / known if known and len(shared) < len(spread) else left

    return Cost(held_out=whole(1), fit=whole(0), levels=levels)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
