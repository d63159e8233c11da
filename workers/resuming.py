"""Resuming a killed training at its epoch and iteration, with the random numbers that follow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, Runner, set_random_seed
from torch.utils.data import BatchSampler

from ..detectors.checkpoints import load_checkpoint
from ..space import WrongUse
from ..space.writing import replacing

#: The file of the state that a killed training resumes from.
RESUME = "resume.pth"
#: What a damaged file is called from then on, after its name.
DAMAGED = ".damaged"
#: Within an epoch, the state is written again after so many iterations.
EVERY = 500
_RANDOM = "random_states"


class Batches:
    """The batches of a sampler. ``skip``: batches of the next epoch that were seen before a kill.

    ``batches``: the config of a sampler of batches, such as mmdet's AspectRatioBatchSampler; None:
    as many images as a batch holds, one after the other.
    """

    skip = 0

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        batches: dict[str, Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        if batches is None:
            self.inner: Any = BatchSampler(sampler, batch_size, drop_last)
        else:
            given = {"sampler": sampler, "batch_size": batch_size}
            self.inner = DATA_SAMPLERS.build(batches, default_args=given)

    def __iter__(self) -> Iterator[list[int]]:
        rest = islice(iter(self.inner), self.skip, None)
        self.skip = 0
        return rest

    def __len__(self) -> int:
        return len(self.inner)


def in_batches(loader: dict[str, Any], dataset: Any) -> dict[str, Any]:
    """A loader's config with a built data set, and with batches that can be skipped.

    mmengine copies what it gets: a hook that changes the data set changes this training's alone.
    """
    batches = {
        "type": Batches,
        "batches": loader.get("batch_sampler"),
        "drop_last": loader.get("drop_last", False),
    }
    return {**loader, "dataset": dataset, "batch_sampler": batches, "drop_last": False}


class Loop(EpochBasedTrainLoop):
    """mmengine's loop over epochs. The first epoch after a kill starts at the next iteration.

    A validation that followed the last epoch before the kill is done again: its loader draws
    numbers, too.
    """

    random_states: dict[str, Any] | None = None

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        if not done and self._restore() and self._validates():
            self.runner.val_loop.run()
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.batch_sampler.skip = done
        batches = iter(self.dataloader)  # draws the seed of the loader's workers
        self._restore()  # a state from within an epoch was written after that draw
        for index, batch in enumerate(batches, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _validates(self) -> bool:
        """Whether a validation follows the last epoch."""
        self._decide_current_val_interval()
        due = self._epoch >= self.val_begin and self._epoch % self.val_interval == 0
        return self.runner.val_loop is not None and due

    def _restore(self) -> bool:
        """Continue with the random numbers from before the kill, if this is the first epoch."""
        if self.random_states is None:
            return False
        set_random_states(self.random_states)
        self.random_states = None
        return True


class ResumeHook(Hook):
    """Writes :data:`RESUME` after every epoch, and every :data:`EVERY` iterations within one.

    The state holds the random states of all processes, in their order.
    """

    priority = "VERY_LOW"  # after the learning rate's step, which the state contains

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        done = batch_idx + 1
        if done % EVERY == 0 and done < len(runner.train_dataloader):
            self._write(runner, by_epoch=False)

    def after_train_epoch(self, runner: Runner) -> None:
        self._write(runner, by_epoch=True)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[_RANDOM] = self._states

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        runner.train_loop.random_states = checkpoint[_RANDOM][get_rank()]

    def _write(self, runner: Runner, by_epoch: bool) -> None:
        """Write the state; a kill meanwhile leaves the state that was written before."""
        self._states = all_gather_object(random_states())
        if is_main_process():
            with replacing(Path(runner.work_dir, RESUME), one_writer=True) as temporary:
                runner.save_checkpoint(runner.work_dir, temporary.name, by_epoch=by_epoch)


def set_aside_if_damaged(file: Path) -> None:
    """Rename a checkpoint that is there but not whole: :data:`DAMAGED` follows its name.

    Raises :class:`WrongUse` if the disk or the memory is at fault, and not the file.
    """
    if not file.is_file():
        return
    try:
        load_checkpoint(file)
    except WrongUse as error:
        if isinstance(error.__context__, OSError | MemoryError):
            raise
        file.replace(file.with_name(file.name + DAMAGED))


def random_states() -> dict[str, Any]:
    """The states of all random generators of a training, in types that load safely."""
    drawn: Any = np.random.get_state()
    name, keys, *rest = drawn
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Continue with the random numbers that would have come next."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random numbers of ``seed`` for the block; after it come those that would have come next.

    This holds for Python's, NumPy's and torch's generators, those of all devices included.
    """
    states = random_states()
    set_random_seed(seed)
    try:
        yield
    finally:
        set_random_states(states)
