"""Sums over large tensors, a piece at a time.

A full-size batch has hundreds of millions of class scores. A loss of them that keeps its steps for
the gradient needs ten times their memory. Here a loss is a few sums over positions, or over images.
Each sum is computed piece by piece; what is computed of a piece is forgotten, and computed again
for the gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..detectors import Levels, Read, to_float32

#: Numbers of one tensor that a piece has at most. Smaller responses are one piece.
PIECE = 2**22
#: The same of a piece of whole images, which is at least one image.
IMAGES = 2**24
#: Joins the results of all pieces, which stand along axis 0.
Join = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cut:
    """A piece of all sides: a range along one axis of some of their levels."""

    #: Places of the levels.
    levels: Sequence[int]
    axis: int
    start: int
    stop: int

    def of(self, level: Tensor) -> Tensor:
        """A view of the piece's part of a level."""
        return level.narrow(self.axis, self.start, self.stop - self.start)


def total(results: Tensor) -> Tensor:
    """The sum of the pieces' sums."""
    return results.sum(dim=0)


def least(results: Tensor) -> Tensor:
    """The least of the pieces' least."""
    return results.amin(dim=0)


def greatest(results: Tensor) -> Tensor:
    """The greatest of the pieces' greatest."""
    return results.amax(dim=0)


def log_total(results: Tensor) -> Tensor:
    """log Σ exp of the pieces' log Σ exp."""
    return results.logsumexp(dim=0)


class _Sides(ABC):
    """Tensors that are cut alike: some sides, each of as many levels."""

    def __init__(self, sides: Sequence[Levels], small: bool) -> None:
        self._sides = sides
        # A compiler fuses the steps of the whole by itself.
        self.small = small or torch.compiler.is_compiling()

    @property
    @abstractmethod
    def _cuts(self) -> list[Cut]:
        """The pieces."""

    @property
    @abstractmethod
    def _whole(self) -> Sequence[Any]:
        """What a function gets of all sides, if they are one piece."""

    @abstractmethod
    def _see(self, piece: Sequence[Tensor]) -> Sequence[Any]:
        """What a function gets of a piece, given side by side, and of each side level by level."""

    @cached_property
    def _gate(self) -> tuple[Tensor, _Gradients]:
        """What the gradients of all sums go through, and where they are added up."""
        levels = [level for levels in self._sides for level in levels]
        wanted = {i: level for i, level in enumerate(levels) if level.requires_grad}
        gradients = _Gradients({i: _Form.of(level) for i, level in wanted.items()})
        if not wanted:
            return levels[0].new_zeros(()), gradients
        return _Gate.apply(gradients, *wanted.values()), gradients

    def each(self, function: Callable[..., Tensor], *shared: Tensor, join: Join = total) -> Tensor:
        """What ``function`` gives for each piece, joined.

        ``function`` takes a piece of each side, then ``shared``. It must be the same every time,
        and use no other tensor that has a gradient. Its steps have the precision that autocast
        gives them here, in the backward as well.
        """
        if self.small:
            return function(*self._whole, *shared)
        gate, gradients = self._gate
        tensors = [level.detach() for levels in self._sides for level in levels]
        device = tensors[0].device.type
        precision = partial(
            torch.autocast,
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )
        levels = len(self._sides[0])
        plan = _Plan(function, self._see, self._cuts, levels, len(tensors), gradients, precision)
        return join(_Each.apply(plan, gate, *tensors, *shared))


class Pieces(_Sides):
    """Tensors that have their positions in common: (N, C, *) each, level by level.

    The axes behind the second are positions; all tensors of a level have the same. C may differ. A
    function gets some positions of all images, (N, C, M) of each side in float32 or wider.
    ``reads``: what makes a side's piece (N, C, M) of the tensors' numbers; None: the numbers are.
    """

    def __init__(self, *sides: Levels, reads: Sequence[Read | None] = ()) -> None:
        most = max(levels[0].shape[1] for levels in sides)
        numbers = most * sum(level[:, 0].numel() for level in sides[0])
        super().__init__(sides, numbers <= PIECE)
        self._reads = (*reads, *[None] * (len(sides) - len(reads)))
        self._joined: tuple[Tensor, ...] | None = None

    @property
    def channels(self) -> int:
        """C of the first side."""
        return self._sides[0][0].shape[1]

    @cached_property
    def _cuts(self) -> list[Cut]:
        cuts = []
        for index, levels in enumerate(zip(*self._sides, strict=True)):
            places = levels[0].shape[2]
            largest = max(level[:, :, :1].numel() for level in levels)
            step = max(1, PIECE // largest)
            cuts += [Cut((index,), 2, at, min(at + step, places)) for at in range(0, places, step)]
        return cuts

    @property
    def _whole(self) -> Sequence[Tensor]:
        if self._joined is None:  # a compiler knows no cached property's lock
            sides = (torch.cat([x.flatten(2) for x in levels], dim=2) for levels in self._sides)
            self._joined = tuple(map(_seen, sides, self._reads))
        return self._joined

    def _see(self, piece: Sequence[Tensor]) -> Sequence[Tensor]:
        return tuple(map(_seen, piece, self._reads))


class Images(_Sides):
    """Tensors that have their images in common: (N, *) each, level by level.

    A function gets all levels of some images of each side, as they are. ``numbers``: of one image,
    how many the largest of the tensors has that the functions make.
    """

    def __init__(self, *sides: Levels, numbers: int) -> None:
        count, step = len(sides[0][0]), max(1, IMAGES // numbers)
        super().__init__(sides, count <= step)
        if self.small:
            step = count
        #: How many images each piece has.
        self.sizes = [min(step, count - at) for at in range(0, count, step)]

    @cached_property
    def _cuts(self) -> list[Cut]:
        levels, ends = range(len(self._sides[0])), list(accumulate(self.sizes, initial=0))
        return [Cut(levels, 0, start, stop) for start, stop in pairwise(ends)]

    @property
    def _whole(self) -> Sequence[Levels]:
        return self._sides

    def _see(self, piece: Sequence[Tensor]) -> Sequence[Levels]:
        levels = len(self._sides[0])
        return [tuple(piece[at : at + levels]) for at in range(0, len(piece), levels)]


def _seen(piece: Tensor, read: Read | None) -> Tensor:
    flat = to_float32(piece.flatten(2))
    return flat if read is None else read(flat)


@dataclass(frozen=True)
class _Form:
    """How a tensor lies in memory. The tensor itself may be freed once its backward has run."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(tensor: Tensor) -> _Form:
        return _Form(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def zeros(self) -> Tensor:
        empty = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)
        return empty.zero_()


@dataclass
class _Gradients:
    """The gradients in the tensors that learn, one buffer for all sums."""

    #: By the tensors' places among all tensors.
    forms: dict[int, _Form]
    buffers: dict[int, Tensor] = field(default_factory=dict)

    def add(self, place: int, cut: Cut, gradient: Tensor) -> None:
        if place not in self.buffers:
            self.buffers[place] = self.forms[place].zeros()
        cut.of(self.buffers[place]).add_(gradient)

    def take(self) -> list[Tensor | None]:
        found, self.buffers = self.buffers, {}
        return [found.get(place) for place in self.forms]


class _Gate(torch.autograd.Function):
    """Stands between the tensors and the sums; its backward runs once, after that of all sums.

    Were the tensors inputs of each sum, autograd would add up as many gradients of full size.
    """

    @staticmethod
    def forward(ctx: Any, gradients: _Gradients, *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return tensors[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, *ctx.gradients.take()


@dataclass(frozen=True)
class _Plan:
    function: Callable[..., Tensor]
    see: Callable[[Sequence[Tensor]], Sequence[Any]]
    cuts: list[Cut]
    #: How many levels a side has, and how many tensors all sides have.
    levels: int
    tensors: int
    gradients: _Gradients
    #: Makes a context of the precision that autocast gave to the steps.
    precision: Callable[[], Any]

    def piece(self, tensors: Sequence[Tensor], cut: Cut) -> dict[int, Tensor]:
        """A piece of each side, by the place of its tensor."""
        return {
            place: cut.of(tensors[place])
            for place in range(self.tensors)
            if place % self.levels in cut.levels
        }

    def value(self, pieces: Iterable[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """What the function gives for a piece of each side."""
        return self.function(*self.see(list(pieces)), *shared)


class _Each(torch.autograd.Function):
    """A function of each piece, (pieces, ...)."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, gate: Tensor, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        shared = tensors[plan.tensors :]
        return torch.stack(
            [plan.value(plan.piece(tensors, cut).values(), shared) for cut in plan.cuts]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> Any:
        if gradient is None:  # nothing is made of the sums
            return (None,) * len(ctx.needs_input_grad)
        plan: _Plan = ctx.plan
        tensors, shared = ctx.saved_tensors[: plan.tensors], ctx.saved_tensors[plan.tensors :]
        needed = ctx.needs_input_grad[2 + plan.tensors :]
        sums: list[Tensor | None] = [None] * len(shared)
        learns = set(plan.gradients.forms) if ctx.needs_input_grad[1] else set()
        for cut, part in zip(plan.cuts, gradient, strict=True):
            pieces = plan.piece(tensors, cut)
            with torch.enable_grad(), plan.precision():
                leaves = {p: x.detach().requires_grad_(p in learns) for p, x in pieces.items()}
                others = [x.detach().requires_grad_(n) for x, n in zip(shared, needed, strict=True)]
                value = plan.value(leaves.values(), others)
            if not value.requires_grad:  # of no gradient by its own word
                continue
            inputs = [x for x in (*leaves.values(), *others) if x.requires_grad]
            found = iter(torch.autograd.grad(value, inputs, part, allow_unused=True))
            for place, leaf in leaves.items():
                if leaf.requires_grad and (own := next(found)) is not None:
                    plan.gradients.add(place, cut, own)
            for index in (i for i, need in enumerate(needed) if need):
                if (own := next(found)) is not None:
                    before = sums[index]
                    sums[index] = own if before is None else before + own
        return None, gradient.new_zeros(()), *[None] * plan.tensors, *sums
