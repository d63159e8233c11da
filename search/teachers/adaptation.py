"""Adaptation costs (MTPD, Section 3.2): how well one detector's features map to another's.

C(A, B) is the L2 loss, on held-out images, of the 1x1 map r(·) from A's features to B's that fits
best. The paper trains every r(·) by SGD; it is a linear map under an L2 loss, so its optimum is
least squares, and the second moments of all models' features, gathered in one pass over the images,
give the costs of all pairs exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...detectors import feature_maps, signature
from ...distillers import common_strides, shrunk
from ...space import WrongUse

#: Positions whose products are summed in single precision before they join the double sums.
CHUNK = 8192
#: The smallest eigenvalue of a model's covariance, as a share of the largest, that single precision
#: can tell from 0. A ridge lifts smaller eigenvalues to this share.
MIN_EIGENVALUE = 1e-7
#: One batch of so many is held out.
HELD_OUT = 5


@dataclass(frozen=True)
class Cost:
    """C(A, B): the mean squared difference per element, summed over levels."""

    #: On the held-out images: the cost itself.
    held_out: float
    #: On the images that the map was fitted on.
    fit: float
    #: (fit, held out) of each level, by stride.
    levels: dict[int, tuple[float, float]]


@dataclass
class Moments:
    """Sums of products of all models' features at one level.

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

    def add(self, maps: Mapping[str, Tensor], held_out: bool) -> None:
        """Add images. ``maps``: (N, C, H, W) by the model's name; smaller maps are upsampled."""
        size = max((level.shape[-2:] for level in maps.values()), key=lambda s: s[0] * s[1])
        rows = [maps[name] for name in self.channels]
        rows = [f if f.shape[-2:] == size else F.interpolate(f, size) for f in rows]
        joint = torch.cat([f.transpose(0, 1).flatten(1).float() for f in rows])
        joint = torch.cat([torch.ones_like(joint[:1]), joint])
        for chunk in joint.split(CHUNK, dim=1):
            self.sums[int(held_out)] += (chunk @ chunk.T).double().cpu()

    def cost(self, source: str, target: str) -> tuple[float, float]:
        """The loss of the best map, with a bias, on fitted and on held-out images."""
        known, wanted = [0, *self._places(source)], self._places(target)
        weights = self._best_map(source, wanted)
        return tuple(self._loss(split, known, wanted, weights) for split in (0, 1))  # type: ignore[return-value]

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


@torch.no_grad()
def adaptation_costs(
    models: Mapping[str, Any],
    batches: Iterable[Any],
    scales: Mapping[str, float] | None = None,
) -> dict[tuple[str, str], Cost]:
    """The costs of all ordered pairs of frozen models; each model sees each image once.

    ``batches``: the batches of a data loader of packed images; every fifth batch is held out. Each
    model normalises the pixels by its own preprocessor. ``scales``: factors in (0, 1] that shrink a
    model's images; its maps are then upsampled. Raises :class:`WrongUse` for models without a
    common stride, and for fewer than five batches.
    """
    signatures = {name: signature(model, name) for name, model in models.items()}
    strides = {name: one.strides for name, one in signatures.items()}
    moments = {
        stride: Moments(
            {name: one.channels[one.strides.index(stride)] for name, one in signatures.items()}
        )
        for stride in common_strides(strides)
    }
    for index, raw in enumerate(batches):
        maps: dict[str, dict[int, Tensor]] = {}
        for name, model in models.items():
            data = model.eval().data_preprocessor(raw, False)
            scale = (scales or {}).get(name, 1.0)
            own = shrunk(data["inputs"], data["data_samples"], scale)
            levels = feature_maps(model, *own)
            maps[name] = dict(zip(strides[name], levels, strict=True))
        for stride, level in moments.items():
            level.add(
                {name: maps[name][stride] for name in models},
                held_out=index % HELD_OUT == HELD_OUT - 1,
            )
    if not all(level.sums[:, 0, 0].all() for level in moments.values()):
        raise WrongUse(f"costs need at least {HELD_OUT} batches of images", "teachers")
    return {
        (source, target): _total({stride: m.cost(source, target) for stride, m in moments.items()})
        for source in models
        for target in models
        if source != target
    }


def _total(levels: dict[int, tuple[float, float]]) -> Cost:
    fit, held_out = (sum(pair[split] for pair in levels.values()) for split in (0, 1))
    return Cost(held_out=held_out, fit=fit, levels=levels)
