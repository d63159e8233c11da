"""The sections ``student`` and ``teacher``, and the schedules that models are trained by."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import FilePath, Settings


class Schedule(Settings):
    """How long a model is trained, and by which optimizer."""

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

    #: A training of the student alone that runs once; every trial starts from its weights. Trials
    #: then compare candidates instead of the first steps from random weights.
    warmup: Schedule | None = None


class Model(Settings):
    """A detector and its weights."""

    #: An mmdet config: ``mmdet::…``, ``detkds::…``, a path, or the model itself as a dict.
    config: str | dict[str, Any]
    #: Options merged into the config, as mmdet's ``--cfg-options``: ``{"a.b.c": value}``.
    cfg_options: dict[str, Any] = {}
    #: Modules that register what the config names. ``custom_imports`` of the config join them.
    imports: list[str] = []
    #: The weights: a path or a URL.
    checkpoint: FilePath | None = None
    #: Load the checkpoint even if loading it runs code from the file.
    trust_checkpoint: bool = False
    #: How a teacher without a checkpoint is trained before the search; the result is kept.
    schedule: Schedule | None = None
