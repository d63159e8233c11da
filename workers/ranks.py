"""What the processes of one training agree on. One process agrees with itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from mmengine.dist import broadcast_object_list, get_rank, is_distributed, is_main_process
from mmengine.runner import set_random_seed

Answer = TypeVar("Answer")


def first_says(question: Callable[[], Answer]) -> Answer:
    """The first process's answer, in every process. The others do not ask.

    On a file system that several machines share, a file may be there for one of them and not yet
    for another: what the processes do next must not depend on that.
    """
    answer: list[Any] = [question() if is_main_process() else None]
    broadcast_object_list(answer)
    return answer[0]


def part_ways(seed: int) -> None:
    """Let every process but the first draw random numbers of its own: those of ``seed`` + rank.

    As with mmengine's ``diff_rank_seed``: with equal numbers, the images of all processes would be
    flipped and masked alike. Samplers draw from a generator of their own, the same everywhere.
    """
    if not is_main_process():
        set_random_seed(seed + get_rank())


def launcher() -> str:
    """mmengine's launcher: any but ``none`` takes the process group that is there."""
    return "pytorch" if is_distributed() else "none"


def wrapper(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """What mmengine's Runner reads of its config: how the job's model is wrapped for processes.

    None for one process. mmengine would give a model on the CPU a device, and a model on a GPU that
    of the process's number, which may be another's.
    """
    if not is_distributed():
        return None
    wrapped = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "device_ids": [torch.cuda.current_device()] if torch.cuda.is_available() else None,
        "find_unused_parameters": job.get("find_unused_parameters", False),
        **(job.get("model_wrapper_cfg") or {}),
    }
    return {"model_wrapper_cfg": wrapped, "sync_bn": job.get("sync_bn")}
