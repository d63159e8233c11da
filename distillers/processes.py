"""Statistics over all processes of a data-parallel training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def mean_over_processes(count: Tensor) -> Tensor:
    """The mean of a count over all processes, without a gradient; one process returns its own.

    A sum that is divided by this mean gives, after the processes' gradients are averaged, the
    gradient of the mean over the whole batch, however unevenly the count is spread.
    """
    if _alone():
        return count.detach()
    total = count.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def sum_over_processes(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with its gradient in every process.

    Losses that each process computes from such sums are equal everywhere. Averaged over processes,
    their gradients are the gradient of the loss of the whole batch, as in synchronised batch norm.
    """
    return part if _alone() else _Sum.apply(part)


def moments_over_processes(var: Tensor, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of the numbers of all processes, of each process's own (L, C).

    ``count``: of how many numbers they are in this process, (L, 1).
    """
    if _alone():
        return var, mean
    sums = sum_over_processes(torch.cat([count, count * mean], dim=1))
    total, common = sums[:, :1], sums[:, 1:] / sums[:, :1]
    return sum_over_processes(count * (var + (mean - common).square())) / total, common
