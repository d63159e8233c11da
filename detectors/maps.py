"""A detector's maps: read without its head, or given to it in place of its own."""

from __future__ import annotations

import copy
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

    It is left as it was, running statistics and counters too: they are to tell of its own maps.
    """
    unused = model.backbone, model.neck
    twin: Any = _twin(model, {part: part for part in unused})
    vars(twin)["extract_feat"] = lambda *_: maps
    return dict(twin.loss(inputs, samples))


def _twin(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """The same layers with the same parameters, and a state of their own: buffers, attributes.

    ``made``: by module the twins there are by now; a layer that is shared is shared there, too.
    """
    if module not in made:
        twin = made[module] = copy.copy(module)
        state = vars(twin)
        for name, value in vars(module).items():
            state[name] = value if isinstance(value, Tensor) else copy.copy(value)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            state["_buffers"][name] = buffer.clone()
        for name, part in module._modules.items():
            state["_modules"][name] = None if part is None else _twin(part, made)
    return made[module]


def copy_samples(samples: list) -> list:
    """Data samples for a second loss of the same batch: some heads write into those they get."""
    copies = [sample.new() for sample in samples]
    for sample in copies:
        sample.gt_instances = sample.gt_instances.new()
    return copies
