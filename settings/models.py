"""The sections ``student`` and ``teacher``, and the schedules of trainings."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import FilePath, Settings


class Schedule(Settings):
    """How long a model is trained, and with which optimizer."""

    #: Passes over the training images.
    epochs: int = Field(ge=1)
    #: Images per training step.
    batch_size: int = Field(ge=1)
    #: mmengine's ``optim_wrapper``: the optimizer, gradient clipping, accumulation.
    optim_wrapper: dict[str, Any]
    #: mmengine's ``param_scheduler``: how the learning rate changes.
    param_scheduler: list[dict[str, Any]] = []


class TrialSchedule(Schedule):
    """The short schedule of a trial."""

    #: The schedule of a training of the student alone, which runs once. Every trial starts from the
    #: weights of that training, and so compares candidates and not the first steps from random
    #: weights.
    warmup: Schedule | None = None


class Model(Settings):
    """A detector and its weights."""

    #: An mmdet config: ``mmdet::…``, ``detkds::…``, a path, or the content of ``model`` as a dict.
    config: str | dict[str, Any]
    #: Options merged into the config, as mmdet's ``--cfg-options``: ``{"a.b.c": value}``.
    cfg_options: dict[str, Any] = {}
    #: Modules that register the classes of the config, besides the config's ``custom_imports``.
    imports: list[str] = []
    #: The weights: a path or a URL.
    checkpoint: FilePath | None = None
    #: Whether to load the checkpoint even if that runs code from the file.
    trust_checkpoint: bool = False
    #: How a teacher without a checkpoint is trained before the search. Its weights are kept.
    schedule: Schedule | None = None
