"""A trial: one candidate scored by a short training on the proxy. No Ray, no database."""

from __future__ import annotations

import math
import socket
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..data.loading import build_dataset, build_metric
from ..detectors import (
    TeacherMemory,
    build_detector,
    has_masks,
    load_weights,
    model_config,
    without_pretrained,
)
from ..distillers import DistilledDetector
from ..settings import Model, Split, Task, TrialSchedule
from ..space import Candidate, Distiller, Outcome, Status
from .runner import fit

#: "We will filter out candidates with excessive loss values (>100 & nan)" (DetKDS, Section 3.2).
MAX_LOSS = 100.0
SCORE = "bbox_mAP"


class Rejected(Exception):
    """Ends a trial whose candidate is no good; the message is the reason."""


class RejectionHook(Hook):
    """Ends a trial at the first iteration with a loss that is not finite or above 100."""

    priority = "VERY_HIGH"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for name, value in (outputs or {}).items():
            reason = excessive(name, float(value.detach())) if "loss" in name else None
            if reason:
                raise Rejected(f"{reason} at iteration {runner.iter + 1}")


def excessive(name: str, value: float) -> str | None:
    """Why a loss rejects its candidate, or None."""
    if math.isnan(value):
        return f"{name} is NaN"
    if math.isinf(value):
        return f"{name} is infinite"
    return f"{name} is {value:.4g}, above {MAX_LOSS:g}" if value > MAX_LOSS else None


def build_student(model: Model, seed: int, weights: str | Path | None = None) -> Any:
    """The student as every training with this seed starts it, whatever it is distilled with."""
    import_modules_from_strings(model.imports)
    set_random_seed(seed)
    student = build_detector(model_config(model.config, model.cfg_options), "student")
    start = weights or model.checkpoint
    if start is None:
        student.init_weights()
    else:
        load_weights(student, start, trust=model.trust_checkpoint)
        student._is_init = True
    return student


def build_teacher(model: Model) -> Any:
    """The teacher with its checkpoint's weights."""
    import_modules_from_strings(model.imports)
    config = without_pretrained(model_config(model.config, model.cfg_options))
    teacher = build_detector(config, "teacher")
    assert model.checkpoint is not None
    load_weights(teacher, model.checkpoint, trust=model.trust_checkpoint)
    return teacher


@dataclass
class TrialContext:
    """What stays between trials: the teacher, parsed annotations, decoded images, the schedule.

    ``warmup``: weights that every student starts from, or None. ``proxy``: train and validation
    splits. Build one per process with :meth:`build`.
    """

    task: Task
    schedule: TrialSchedule
    seed: int
    warmup: str | None
    teacher: nn.Module | None
    memory: TeacherMemory | None
    train_set: Any
    val_set: Any
    metric: Any

    @classmethod
    def build(
        cls,
        task: Task,
        schedule: TrialSchedule,
        proxy: tuple[Split, Split],
        *,
        seed: int,
        warmup: str | None = None,
    ) -> TrialContext:
        torch.set_num_threads(task.threads)
        size, megabytes = task.data.image_size, task.data.cache_megabytes
        masks = has_masks(model_config(task.student.config, task.student.cfg_options))
        train, val = proxy
        train_set = build_dataset(
            train.annotations,
            train.images,
            task.data.train_size,
            training=True,
            flip=task.data.flip,
            masks=masks,
            cache_megabytes=megabytes,
        )
        val_set = build_dataset(
            val.annotations, val.images, size, training=False, cache_megabytes=megabytes
        )
        teacher = None if task.teacher is None else build_teacher(task.teacher)
        memory = (
            None
            if teacher is None
            else TeacherMemory(teacher, images=len(train_set), megabytes=megabytes)
        )
        metric = build_metric(val.annotations, val_set, masks=masks)
        return cls(task, schedule, seed, warmup, teacher, memory, train_set, val_set, metric)


def evaluate(context: TrialContext, candidate: Candidate | Distiller | None) -> Outcome:
    """Train the student with the candidate on the proxy and score it: box AP in [0, 1].

    ``None`` scores the student alone. A loss that is NaN, infinite or above 100 gives a rejected
    outcome; any other exception a failed one, with its traceback. Nothing is written anywhere.
    """
    started = time.perf_counter()
    distiller = candidate.distiller if isinstance(candidate, Candidate) else candidate
    where = {"host": socket.gethostname(), "device": get_device()}
    try:
        metrics = _train(context, distiller)
        # mmdet gives no metrics at all for a student that finds nothing: that is an AP of 0.
        status, detail = Status.COMPLETED, {"score": metrics.get(SCORE, 0.0), "metrics": metrics}
    except Rejected as rejection:
        status, detail = Status.REJECTED, {"reason": str(rejection)}
    except Exception:
        status, detail = Status.FAILED, {"error": traceback.format_exc()}
    return Outcome(status, seconds=time.perf_counter() - started, **where, **detail)  # type: ignore[arg-type]


def _train(context: TrialContext, distiller: Distiller | None) -> dict[str, float]:
    student = build_student(context.task.student, context.seed, context.warmup)
    model = DistilledDetector(
        student,
        context.teacher,
        distiller,
        memory=context.memory,
        inherit=context.task.inherit,
        student_scale=context.task.data.student_scale,
    )
    with tempfile.TemporaryDirectory(prefix="detkds-trial-") as folder:
        return fit(
            model,
            context.train_set,
            context.schedule,
            Path(folder),
            seed=context.seed,
            metric=context.metric,
            val_set=context.val_set,
            hooks=[RejectionHook()],
            num_workers=context.task.data.num_workers,
        )
