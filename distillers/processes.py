"""Statistics over all processes of a data-parallel training."""

from __future__ import annotations

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


def sum_over_processes(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with its gradient in every process.

    Losses that each process computes from such sums are equal everywhere. Averaged over processes,
    their gradients are the gradient of the loss of the whole batch, as in synchronised batch norm.
    """
    if _alone():
        return part
    from torch.distributed.nn.functional import all_reduce  # starts slowly; one process needs none

    summed: Tensor = all_reduce(part)
    return summed
