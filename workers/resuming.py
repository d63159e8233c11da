"""Going on after a kill: from the epoch and iteration, with the random numbers that came next."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

#: What a killed training goes on from: one file, there whole or not at all.
RESUME = "resume.pth"
#: Iterations after which the file is written anew within an epoch.
EVERY = 500
_RANDOM = "random_states"


class Sampler(DefaultSampler):
    """mmengine's sampler, which can leave out images that a broken-off epoch has seen already."""

    skip = 0

    def __iter__(self) -> Iterator[int]:
        rest = islice(super().__iter__(), self.skip, None)
        self.skip = 0
        return rest


class Loop(EpochBasedTrainLoop):
    """mmengine's epochs; one that was broken off is gone on with where it was."""

    random_states: dict[str, Any] | None = None

    def run_epoch(self) -> None:
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.sampler.skip = done * self.dataloader.batch_size
        if not done:
            self._restore()
        batches = iter(self.dataloader)  # draws a seed for workers: before the first state of it
        self._restore()
        for index, batch in enumerate(batches, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _restore(self) -> None:
        if self.random_states is not None:
            set_random_states(self.random_states)
            self.random_states = None


class ResumeHook(Hook):
    """Writes :data:`RESUME` after every epoch and every :data:`EVERY` iterations within one."""

    priority = "VERY_LOW"  # after the learning rate's step, which belongs to what it keeps

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
    """Whole or not at all: a kill while it is written leaves the one before."""
    temporary = f"{RESUME}.tmp"
    runner.save_checkpoint(runner.work_dir, temporary, by_epoch=by_epoch)
    os.replace(Path(runner.work_dir, temporary), Path(runner.work_dir, RESUME))


def random_states() -> dict[str, Any]:
    """The states of all random numbers that a training draws, in types that load safely."""
    drawn: Any = np.random.get_state()
    name, keys, *rest = drawn
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Go on with the random numbers that would have come next."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
