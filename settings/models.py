"""The sections ``student`` and ``teacher``, and the schedules of trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from .base import FilePath, Settings

#: What a scheduler counts in epochs.
_COUNTED = ("milestones", "begin", "end", "T_max", "step_size", "total_iters")


class Schedule(Settings):
    """How long a model is trained, and with which optimizer."""

    #: Passes over the training images.
    epochs: int = Field(ge=1)
    #: Images per training step and process.
    batch_size: int = Field(ge=1)
    #: Processes that share the training, on one machine or several; each has a GPU of its own,
    #: where there are GPUs. A step has ``processes`` times ``batch_size`` images.
    processes: int = Field(default=1, ge=1)
    #: mmengine's ``optim_wrapper``: the optimizer, gradient clipping, accumulation.
    optim_wrapper: dict[str, Any]
    #: mmengine's ``param_scheduler``: how the learning rate changes.
    param_scheduler: list[dict[str, Any]] = []

    @model_serializer(mode="wrap")
    def _without_one_process(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What one process trains keeps the key that it had before there were several."""
        found = serialize(self)
        if found.get("processes") == 1:
            del found["processes"]
        return found

    def over(self, epochs: int) -> Schedule:
        """The same schedule in other epochs; its milestones move along (see :func:`moved`)."""
        schedulers = moved(self.param_scheduler, self.epochs, epochs)
        return self.model_copy(update={"epochs": epochs, "param_scheduler": schedulers})


class TrialSchedule(Schedule):
    """The short schedule of a trial."""

    #: The schedule of a training of the student alone, which runs once. Every trial starts from the
    #: weights of that training, and so compares candidates and not the first steps from random
    #: weights.
    warmup: Schedule | None = None
    #: mmengine's visualization backends that each trial shows its losses and scores to:
    #: ``[dict(type='TensorboardVisBackend')]``, ``WandbVisBackend``, ``MLflowVisBackend``, … In
    #: texts of their options, ``{name}`` stands for the trial's name. Their files lie in the work
    #: folder, below ``NAME.trials``. Full trainings have those of ``job.visualizer``.
    vis_backends: list[dict[str, Any]] = []

    @property
    def schedule(self) -> Schedule:
        """The schedule alone."""
        return Schedule(**self.model_dump(include=set(Schedule.model_fields)))

    @field_validator("processes")
    @classmethod
    def _one(cls, processes: int) -> int:
        if processes > 1:
            raise ValueError(
                "a trial runs in one process; resources.workers says how many run side by side"
            )
        return processes


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
    #: Weights that a student without a checkpoint starts from as far as they fit: mmengine's
    #: ``load_from``, a path or a URL.
    load_from: FilePath | None = None
    #: Whether to load the checkpoint even if that runs code from the file.
    trust_checkpoint: bool = False
    #: How a teacher without a checkpoint is trained before the search. Its weights are kept. A
    #: student has none.
    schedule: Schedule | None = None


def moved(
    schedulers: Iterable[Mapping[str, Any]], before: int, now: int, *, by_epoch: bool = True
) -> list[dict[str, Any]]:
    """mmengine's schedulers of ``before`` epochs for ``now`` epochs.

    What they count in epochs keeps its share of the epochs, rounded down so that a milestone stays
    within them, and is at least 1. What they count in iterations stays. ``by_epoch=False``:
    ``before`` and ``now`` are iterations, and epochs stay.

    >>> steps = {"type": "MultiStepLR", "by_epoch": True, "milestones": [16, 22]}
    >>> moved([{"type": "LinearLR", "by_epoch": False, "end": 500}, steps], 24, 12)[1]["milestones"]
    [8, 11]
    """

    def scaled(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [scaled(one) for one in value]
        return max(1, value * now // before)

    found = []
    for scheduler in schedulers:
        own = dict(scheduler)
        if own.get("by_epoch", True) == by_epoch:
            own |= {name: scaled(own[name]) for name in _COUNTED if own.get(name)}
        found.append(own)
    return found
