"""A detector's maps: read without its head, or given to it in place of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .families import encodes
from .responses import Levels


def feature_maps(model: Any, inputs: Tensor, samples: list) -> Levels:
    """A detector's maps of ``inputs`` (N, 3, H, W), level by level, without its head."""
    maps = tuple(model.extract_feat(inputs))
    if not encodes(model):
        return maps
    encoder_inputs, _ = model.pre_transformer(maps, samples)
    return unflattened(model.forward_encoder(**encoder_inputs)["memory"], maps)


def unflattened(memory: Tensor, like: Levels) -> Levels:
    """An encoder's memory (N, Σ H·W, C) as maps (N, C, H, W) of the sizes of the neck's."""
    sizes = [level.shape[-2:] for level in like]
    parts = memory.split([h * w for h, w in sizes], dim=1)
    return tuple(
        part.transpose(1, 2).unflatten(2, tuple(size))
        for part, size in zip(parts, sizes, strict=True)
    )


def loss_of_maps(model: Any, maps: Levels, inputs: Tensor, samples: list) -> dict[str, Any]:
    """A training detector's own losses of other maps (N, C, H, W) than its neck's.

    Its running statistics are left alone: they are to tell of its own maps.
    """
    object.__setattr__(model, "extract_feat", lambda *_: maps)
    try:
        with _same_statistics(model):
            return dict(model.loss(inputs, samples))
    finally:
        object.__delattr__(model, "extract_feat")


@contextmanager
def _same_statistics(model: nn.Module) -> Iterator[None]:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
