"""The schedules of a config's trainings, each by the section that sets it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...data import read_document
from ...settings import Schedule, SearchConfig
from ...settings.schedules import fitted, iterations_of
from ...space import WrongUse
from ...workers.buildable import needs_gpu


@dataclass(frozen=True)
class Scheduled:
    """A section's schedule, and the images that an epoch shows."""

    section: str
    schedule: Schedule
    images: int

    @property
    def iterations(self) -> int:
        return iterations_of(self.schedule, self.images)

    @property
    def changes(self) -> list[str]:
        """How the schedulers change to fit the training, a line each."""
        own = self.schedule
        return fitted(own.param_scheduler, own.epochs, self.iterations)[1]


def schedules(config: SearchConfig, images: int) -> list[Scheduled]:
    """All schedules that a config's trainings may have, in their order.

    ``images``: those that an epoch of the training split shows.
    """
    found: list[Scheduled] = []
    proxy = config.proxy.train_images
    if config.proxy.train is not None:
        proxy = len(read_document(config.proxy.train)["images"])
    teachers = {"teacher": config.teacher}
    teachers |= {f"teachers.{name}": one for name, one in config.teachers.items()}
    for section, model in teachers.items():
        if model is not None and model.checkpoint is None and model.schedule is not None:
            found.append(Scheduled(f"{section}.schedule", model.schedule, images))
    if config.trial.warmup is not None:
        found.append(Scheduled("trial.warmup", config.trial.warmup, proxy))
    found.append(Scheduled("trial", config.trial, proxy))
    if config.confirm_schedule is not None:
        found.append(Scheduled("confirm", config.confirm_schedule, proxy))
    if config.final is not None:
        found.append(Scheduled("final", config.final.schedule, images))
    return found


def check_devices(config: SearchConfig, trainings: list[Scheduled]) -> None:
    """Raise :class:`WrongUse` for mixed precision without a GPU, before a training starts.

    Nodes of a joined cluster may have GPUs where this machine has none.
    """
    resources = config.resources
    if resources.address is not None or (torch.cuda.is_available() and resources.gpus != 0):
        return
    for one in trainings:
        if needs_gpu(one.schedule):
            raise WrongUse(
                "it trains on GPUs only, and trainings here have none: set it to OptimWrapper",
                f"{one.section}.optim_wrapper.type",
            )
