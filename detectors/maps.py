"""A detector's maps: computed without the head, or given to the head instead of the neck's maps."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from .families import has_encoder_maps
from .responses import Levels


def feature_maps(model: Any, inputs: Tensor, samples: list) -> Levels:
    """A detector's maps (N, C, H, W) of ``inputs`` (N, 3, H, W), level by level.

    The maps are the neck's, or for a DETR the encoder's memory. The head does not run. ``samples``:
    mmdet's data samples of the images.
    """
    maps = tuple(model.extract_feat(inputs))
    if not has_encoder_maps(model):
        return maps
    encoder_inputs, _ = model.pre_transformer(maps, samples)
    return memory_as_maps(model.forward_encoder(**encoder_inputs)["memory"], maps)


def memory_as_maps(memory: Tensor, neck_maps: Levels) -> Levels:
    """An encoder's memory (N, Σ H·W, C) as maps (N, C, H, W) of the same sizes as the neck's."""
    sizes = [level.shape[-2:] for level in neck_maps]
    parts = memory.split([h * w for h, w in sizes], dim=1)
    return tuple(
        part.transpose(1, 2).unflatten(2, tuple(size))
        for part, size in zip(parts, sizes, strict=True)
    )


class _Given(nn.Module):
    """Stands for a backbone, whose input it passes on, or for a neck that gives known maps."""

    def __init__(self, maps: Levels | None = None) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, inputs: Any) -> Any:
        return inputs if self.maps is None else self.maps


def head_of_maps(model: Any, maps: Levels) -> Any:
    """The same detector with a neck that gives ``maps`` for any images; nothing runs before it.

    ``maps``: (N, C, H, W), level by level. The head has the detector's own parameters, and copies
    of its buffers and attributes: running statistics and counters of ``model`` stay as they are.
    """
    given = _Given(), _Given(maps)
    return _twin(model, dict(zip((model.backbone, model.neck), given, strict=True)))


def loss_of_maps(model: Any, maps: Levels, inputs: Tensor, samples: list) -> dict[str, Any]:
    """The losses that a training detector's head gives for ``maps`` instead of the neck's maps.

    ``maps``: (N, C, H, W), level by level. The call changes nothing in the detector (see
    :func:`head_of_maps`). Gradients reach ``maps`` and the detector's parameters.
    """
    return dict(head_of_maps(model, maps).loss(inputs, samples))


def _twin(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy of the module: with the same parameters, and with copies of buffers and attributes.

    ``made``: the twins made so far, by module. A layer that stands in several places of the module
    has one twin, which stands in the same places of the copy.
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
    """Copies of data samples, for a second loss: some heads write into the samples they get."""
    copies = [sample.new() for sample in samples]
    for sample in copies:
        sample.gt_instances = sample.gt_instances.new()
    return copies
