"""A hook that ties a distillation to mmengine's Runner."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..space import WrongUse
from .detector import DistilledDetector

#: The checkpoint's entry beside ``state_dict``, which holds the student alone.
DISTILLATION = "distillation"


@HOOKS.register_module()
class DistillationHook(Hook):
    """Keeps what the distillation has learned in the checkpoint, so that a training can resume.

    The hook also tells ``stepwise`` weights how many milestones the learning rate has passed.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = _distilled(runner)
        if model is not None:
            checkpoint[DISTILLATION] = model.distillation_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = _distilled(runner)
        if model is not None and DISTILLATION in checkpoint:
            model.load_distillation_state(checkpoint[DISTILLATION])

    def before_train(self, runner: Runner) -> None:
        self.before_train_iter(runner)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        model = _distilled(runner)
        if model is not None and model.distillation is not None:
            model.distillation.follow(partial(milestones_passed, runner))


def milestones_passed(runner: Runner) -> int:
    """How many milestones the learning rate has passed.

    Raises :class:`WrongUse` if no scheduler of the learning rate has milestones.
    """
    schedulers: Any = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # by optimizer
        schedulers = [scheduler for group in schedulers.values() for scheduler in group]
    found = [s for s in schedulers if s.param_name == "lr" and getattr(s, "milestones", None)]
    if not found:
        raise WrongUse(
            "a stepwise weight changes at the learning rate's milestones, and the training has "
            "none: use MultiStepLR, or a constant weight"
        )
    return max(
        sum(
            count
            for milestone, count in scheduler.milestones.items()
            if milestone <= scheduler.last_step
        )
        for scheduler in found
    )


def _distilled(runner: Runner) -> DistilledDetector | None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model if isinstance(model, DistilledDetector) else None
