"""A hook for mmengine's Runner: what the distillation has learned, kept for a resume."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .detector import DistilledDetector

#: The checkpoint's entry beside ``state_dict``, which holds the student alone.
DISTILLATION = "distillation"


@HOOKS.register_module()
class DistillationStateHook(Hook):
    """Keeps the adapters in the checkpoint beside the student, so that a training can resume."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = _distilled(runner)
        if model is not None:
            checkpoint[DISTILLATION] = model.distillation_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = _distilled(runner)
        if model is not None and DISTILLATION in checkpoint:
            model.load_distillation_state(checkpoint[DISTILLATION])


def _distilled(runner: Runner) -> DistilledDetector | None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model if isinstance(model, DistilledDetector) else None
