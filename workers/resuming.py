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
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner, set_random_seed

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


class Sampler(DefaultSampler):
    """mmengine's sampler. ``skip``: images of the next epoch that were seen before a kill."""

    skip = 0

    def __iter__(self) -> Iterator[int]:
        rest = islice(super().__iter__(), self.skip, None)
        self.skip = 0
        return rest


class Loop(EpochBasedTrainLoop):
    """mmengine's loop over epochs. The first epoch after a kill starts at the next iteration."""

    random_states: dict[str, Any] | None = None

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.sampler.skip = done * self.dataloader.batch_size
        if not done:
            self._restore()
        batches = iter(self.dataloader)  # draws the seed of the loader's workers
        self._restore()  # a state from within an epoch was written after that draw
        for index, batch in enumerate(batches, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _restore(self) -> None:
        if self.random_states is not None:
            set_random_states(self.random_states)
            self.random_states = None


class ResumeHook(Hook):
    """Writes :data:`RESUME` after every epoch, and every :data:`EVERY` iterations within one."""

    priority = "VERY_LOW"  # after the learning rate's step, which the state contains

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        done = batch_idx + 1
        if done % EVERY == 0 and done < len(runner.train_dataloader):
            _write(runner, by_epoch=False)

    def after_train_epoch(self, runner: Runner) -> None:
        _write(runner, by_epoch=True)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint[_RANDOM] = random_states()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        runner.train_loop.random_states = checkpoint[_RANDOM]


def _write(runner: Runner, by_epoch: bool) -> None:
    """Write the state; a kill meanwhile leaves the state that was written before."""
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
