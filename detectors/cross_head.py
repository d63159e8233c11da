"""A student's head continued by the layers of a teacher's head (CrossKD, Section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .families import Unreadable, check_readable, dense_family, dense_head
from .responses import Levels, Read, dense_responses, reading

#: The maps (N, C, H, W) of a head's classification branch and of its regression branch.
Branches = tuple[Levels, Levels]
#: The names of the two branches' stacks of convolutions in mmdet's heads, in the same order.
BRANCHES = ("cls_convs", "reg_convs")


@dataclass(frozen=True)
class HeadLayers:
    """The layers of a dense head, counted as in CrossKD."""

    #: The paper's n: the stacked convolutions of a branch, and the convolution that predicts.
    count: int
    #: Channels of the paper's maps f_0 (the neck's map) to f_(n-1).
    channels: tuple[int, ...]
    #: Bins of the distribution that the head predicts for each side of a box; 0 for a head that
    #: predicts no distribution.
    bins: int


@dataclass(frozen=True)
class DensePredictions:
    """The predictions of a dense head, level by level, for M priors."""

    #: Class logits (N, K, H·W, A).
    logits: Levels
    #: What the head regresses, (N, R, H·W, A); of distributions, the logits of all sides' bins.
    regressed: Levels
    #: Makes the distances from a prior to the left, top, right and bottom side of its box, (N, 4,
    #: M): in units of the anchor, or, for a head without anchors, in strides. None: they are so.
    read: Read | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> DensePredictions:
        """The same predictions with ``function`` applied to each level."""
        first, second = (tuple(map(function, part)) for part in (self.logits, self.regressed))
        return DensePredictions(first, second, self.read)


def head_layers(model: Any) -> HeadLayers:
    """The layers of a detector's dense head.

    Raises :class:`Unreadable` for a head that has not two separate stacks of convolutions,
    ``cls_convs`` and ``reg_convs``, with equal widths.
    """
    head = dense_head(model)
    if head is None:
        check_readable(model)
        raise Unreadable("has no dense head, which predicts at every position")
    name, family = type(head).__name__, dense_family(head)
    if family.refined:
        raise Unreadable(f"has the {name}, one of whose branches reads the other branch")
    stacks: list[Any] = [getattr(head, branch, None) for branch in BRANCHES]
    layers: list[Any] = [
        list(stack) if isinstance(stack, nn.ModuleList) else [None] for stack in stacks
    ]
    if not all(hasattr(layer, "activate") for stack in layers for layer in stack):
        raise Unreadable(
            f"has the {name}, which lacks a stack of convolutions for each branch, "
            f"{' and '.join(BRANCHES)}"
        )
    first, second = (tuple(layer.out_channels for layer in stack) for stack in layers)
    if first != second:
        raise Unreadable(
            f"has the {name}, whose branches have {list(first)} and {list(second)} channels"
        )
    bins = head.reg_max + 1 if family.regression == "distribution" else 0
    return HeadLayers(len(first) + 1, (head.in_channels, *first), bins)


def keep_maps(head: Any, positions: Iterable[int], kept: dict[int, Any]) -> list[Any]:
    """Add hooks to a dense head that keep the maps of both branches behind the named layers.

    A map is kept as it is before the layer's activation. The head's next forward fills ``kept[i]``
    for each position i with two lists of maps, one map for each level. Returns the handles that
    remove the hooks.
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
    """Read the return value of a dense head's forward."""
    return DensePredictions(*dense_responses(head, outputs), reading(head))


class CrossHead:
    """The layers of a frozen dense head behind its layer i. Gradients reach the layers' input.

    ``position``: the paper's i, from 0 (all layers remain) to n - 1 (the last layer remains).
    """

    def __init__(self, head: Any, position: int) -> None:
        self._head = head
        self._position = position
        #: A copy of the head whose stacks begin with an :class:`_Entry` instead of layers 1 to i.
        self._rest = copy.copy(head)
        self._rest._modules = dict(head._modules)
        for branch, name in enumerate(BRANCHES):
            stack = getattr(head, name)
            first = _Entry(branch, stack[position - 1].activate if position else None)
            self._rest._modules[name] = nn.ModuleList([first, *stack[position:]])

    def __deepcopy__(self, memo: dict) -> CrossHead:
        """The same object: the head is frozen, so copies of a model (an average of it) share it."""
        return self

    @torch.no_grad()
    def before(self, maps: Levels) -> Branches:
        """The maps of the head's own branches behind layer i, before the activation.

        ``maps``: the head's input (N, C, H, W), level by level; position 0 returns it unchanged.
        """
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
        """The predictions of the remaining layers for the maps of both branches."""
        return dense_predictions(self._head, self._rest(tuple(zip(*branches, strict=True))))


class _Entry(nn.Module):
    """Takes a branch's map out of the maps of both branches, and activates the map."""

    def __init__(self, branch: int, activation: nn.Module | None) -> None:
        super().__init__()
        self.branch = branch
        chosen: Any = copy.copy(activation) or nn.Identity()
        chosen.inplace = False
        self.activation = chosen

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.activation(pair[self.branch])
