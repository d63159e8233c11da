"""One head continued by another's layers (CrossKD, Section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .families import dense_family, dense_head, unread
from .responses import Levels, dense_responses, split_by_prior

#: A branch each, classification first: feature maps (N, C, H, W) level by level.
Branches = tuple[Levels, Levels]
BRANCHES = ("cls_convs", "reg_convs")


@dataclass(frozen=True)
class HeadLayers:
    """A dense head's layers as CrossKD counts them.

    ``count``: the paper's n, a branch's stacked convolutions and the one that predicts.
    ``channels``: of f_0, the neck's map, to f_(n-1). ``bins``: of the distribution that it answers
    for each side, 0 if it answers none.
    """

    count: int
    channels: tuple[int, ...]
    bins: int


@dataclass(frozen=True)
class DensePredictions:
    """What a dense head predicts, level by level, in the form in which any two compare.

    ``logits`` (N, K, M); ``sides`` (N, 4, M), left, top, right and bottom of their prior, in units
    of an anchor or in the head's distances; ``bins`` (N, 4·R, M), a distribution head's logits.
    """

    logits: Levels
    sides: Levels
    bins: Levels = ()

    def map(self, function: Callable[[Tensor], Tensor]) -> DensePredictions:
        return DensePredictions(*(tuple(map(function, part)) for part in vars(self).values()))


def head_layers(model: Any) -> HeadLayers | str:
    """The layers of a dense head with two stacks of convolutions, ``cls_convs`` and ``reg_convs``.

    Of any other head why it has none to be counted, in words that follow the detector's name.
    """
    head = dense_head(model)
    family = dense_family(head) if head is not None else None
    if family is None:
        return unread(model) or "has no dense head, one that answers at every position"
    name = type(head).__name__
    if family.refined:
        return f"has the {name}, of whose branches one reads the other"
    stacks: list[Any] = [getattr(head, branch, None) for branch in BRANCHES]
    layers: list[Any] = [
        list(stack) if isinstance(stack, nn.ModuleList) else [None] for stack in stacks
    ]
    if not all(hasattr(layer, "activate") for stack in layers for layer in stack):
        return (
            f"has the {name}, which has not one stack of convolutions for each branch, "
            f"{' and '.join(BRANCHES)}"
        )
    first, second = (tuple(layer.out_channels for layer in stack) for stack in layers)
    if first != second:
        return f"has the {name}, whose branches are {list(first)} and {list(second)} wide"
    bins = head.reg_max + 1 if family.sides == "distribution" else 0
    return HeadLayers(len(first) + 1, (head.in_channels, *first), bins)


def listen(head: Any, positions: Iterable[int], kept: dict[int, Any]) -> list[Any]:
    """Hooks that keep what both branches hold after these layers, before the activation.

    ``kept[i]`` becomes two lists of maps, one map a level. Returns the hooks' handles.
    """
    handles = []
    for position in positions:
        kept[position] = ([], [])
        for name, levels in zip(BRANCHES, kept[position], strict=True):
            activation = getattr(head, name)[position - 1].activate
            handles.append(activation.register_forward_pre_hook(_keeper(levels)))
    return handles


def _keeper(levels: list[Tensor]) -> Callable[[nn.Module, tuple], None]:
    def keep(module: nn.Module, inputs: tuple) -> None:
        levels.append(inputs[0].clone())  # the activation works in place

    return keep


def dense_predictions(head: Any, outputs: tuple) -> DensePredictions:
    """Read what a dense head's forward returned, in float32 or wider."""
    outputs = tuple([to_float32(level) for level in part] for part in outputs)
    family = dense_family(head)
    assert family is not None
    logits, sides = dense_responses(head, outputs)
    bins: Levels = ()
    if family.sides == "distribution":
        bins = tuple(split_by_prior(level, 4 * (head.reg_max + 1)) for level in outputs[1])
    if family.sides == "deltas":
        sides = tuple(_decoded(head, level) for level in sides)
    return DensePredictions(logits, sides, bins)


def to_float32(tensor: Tensor) -> Tensor:
    """Half precision to float32: sums over a map overflow in it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _decoded(head: Any, level: Tensor) -> Tensor:
    """Deltas (N, 4, M) as sides in units of the anchor: ratios of areas are the same in them."""
    n, _, m = level.shape
    deltas = level.transpose(1, 2).reshape(n * m, 4)
    half = deltas.new_full((n * m, 2), 0.5)
    anchors = torch.cat([-half, half], dim=1)
    corners = head.bbox_coder.decode(anchors, deltas).view(n, m, 4).transpose(1, 2)
    return torch.cat([-corners[:, :2], corners[:, 2:]], dim=1)


class CrossHead:
    """A frozen head from one of its layers on; what goes through it keeps its gradient.

    ``position``: the paper's i, 0 to n - 1: layers 1 to i are left out.
    """

    def __init__(self, head: Any, position: int) -> None:
        self._head = head
        self._position = position
        #: The same head, its first layers replaced by a choice between two maps.
        self._rest = copy.copy(head)
        self._rest._modules = dict(head._modules)
        for branch, name in enumerate(BRANCHES):
            stack = getattr(head, name)
            first = _Entry(branch, stack[position - 1].activate if position else None)
            self._rest._modules[name] = nn.ModuleList([first, *stack[position:]])

    def __deepcopy__(self, memo: dict) -> CrossHead:
        """Frozen, so that a copy of a model, an average of it say, shares it."""
        return self

    @torch.no_grad()
    def before(self, maps: Levels) -> Branches:
        """What the head's own branches hold after layer i, before the activation."""
        if not self._position:
            return maps, maps
        first, second = (
            tuple(self._through(getattr(self._head, name), level) for level in maps)
            for name in BRANCHES
        )
        return first, second

    def _through(self, stack: Any, level: Tensor) -> Tensor:
        for conv in stack[: self._position - 1]:
            level = conv(level)
        return stack[self._position - 1](level, activate=False)

    def after(self, branches: Branches) -> DensePredictions:
        """The predictions that the remaining layers make of two branches' maps."""
        return dense_predictions(self._head, self._rest(tuple(zip(*branches, strict=True))))


class _Entry(nn.Module):
    """Takes one branch's map out of the pair, and activates it."""

    def __init__(self, branch: int, activation: nn.Module | None) -> None:
        super().__init__()
        self.branch = branch
        chosen: Any = copy.copy(activation) or nn.Identity()
        chosen.inplace = False
        self.activation = chosen

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.activation(pair[self.branch])
