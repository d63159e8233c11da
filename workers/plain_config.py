"""A training as a plain mmdet config, which mmdet's own tools/train.py runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..data.loading import built
from ..detectors import configured, has_masks
from ..settings.schedules import fitted, iterations_of
from .job import make_job, scheduled
from .training import Training

#: What the config imports: the distilled detector with its hook, our transforms, and loading that
#: runs no code of a checkpoint.
IMPORTS = ["detkds.distillers", "detkds.data.loading", "detkds.detectors.scripts"]


def plain_config(training: Training) -> Config:
    """The whole training as an mmdet config with ``DistilledDetector`` in it.

    Under the same seed, mmdet's script has the losses of ``detkds train`` in every iteration. A
    student's checkpoint becomes the config's ``load_from``. Relative paths have become absolute.
    """
    student = configured(training.model)
    split = training.train, training.val or training.test
    job = make_job(training.job, training.data, *split, masks=has_masks(student), full=True)
    whole = scheduled(job, training.schedule)
    if whole["param_scheduler"]:
        images = len(built(whole["train_dataloader"]["dataset"]))
        length = training.schedule.epochs, iterations_of(training.schedule, images)
        whole["param_scheduler"], _ = fitted(whole["param_scheduler"], *length)
    model: dict[str, Any] = {"type": "DistilledDetector", "student": student.to_dict()}
    if training.distiller is not None:
        model |= {"distiller": training.distiller, "inherit": training.inherit}
        model["student_scale"] = training.data.student_scale
    if training.teachers:
        model["teacher"] = [configured(one).to_dict() for one in training.teachers]
        model["teacher_checkpoint"] = [one.checkpoint for one in training.teachers]
        model["trust_checkpoint"] = any(one.trust_checkpoint for one in training.teachers)
    modules = [
        *training.model.imports,
        *(name for one in training.teachers for name in one.imports),
    ]
    whole |= {
        "model": model,
        "custom_imports": {"imports": list(dict.fromkeys([*IMPORTS, *modules]))},
        "custom_hooks": [{"type": "DistillationHook"}, *(whole.get("custom_hooks") or ())],
        "randomness": {**(whole.get("randomness") or {}), "seed": training.seed},
        "load_from": training.model.checkpoint or training.model.load_from,
    }
    if "val_cfg" not in whole and "val_dataloader" in whole:
        whole["val_cfg"] = {"type": "ValLoop"}
        whole["train_cfg"].setdefault("val_interval", training.schedule.epochs)
    if "val_cfg" in whole:
        tested = whole
        if training.val is not None and training.test is not None:
            test = training.model_copy(update={"val": None})
            tested = plain_config(test).to_dict()
        for part in ("dataloader", "evaluator"):
            whole[f"test_{part}"] = copy.deepcopy(tested[f"val_{part}"])
        whole["test_cfg"] = {"type": "TestLoop"}
    hooks = whole["default_hooks"]
    hooks["checkpoint"] = hooks.get("checkpoint") or {"type": "CheckpointHook", "interval": 1}
    return Config({name: value for name, value in whole.items() if value is not None})


def write_plain_config(training: Training, file: Path) -> None:
    """Write :func:`plain_config` as a Python file."""
    plain_config(training).dump(file)
