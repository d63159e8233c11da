"""What a trial and a full training share: models, data, and the training of a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import set_random_seed
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..data.loading import build_dataset, build_metric
from ..detectors import (
    TeacherMemory,
    build_detector,
    configured,
    has_masks,
    load_weights,
    without_pretrained,
)
from ..distillers import DistilledDetector
from ..settings import Data, Model, Schedule, Split
from ..space import Distiller
from .runner import fit

#: The metric that a student is scored by: COCO's box AP, in [0, 1].
SCORE = "bbox_mAP"


def build_student(model: Model, seed: int, weights: str | Path | None = None) -> Any:
    """The student with the weights that it starts from.

    The student starts from ``weights`` if they are given, else from its checkpoint, else from the
    random weights of ``seed``, whatever the student is distilled with.
    """
    import_modules_from_strings(model.imports)
    set_random_seed(seed)
    student = build_detector(configured(model), "student")
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
    teacher = build_detector(without_pretrained(configured(model)), "teacher")
    assert model.checkpoint is not None
    load_weights(teacher, model.checkpoint, trust=model.trust_checkpoint)
    return teacher


@dataclass
class Inputs:
    """What a student learns from and is scored on.

    ``val_set`` and ``metric`` are None for a student that is not scored. ``memories`` keep what
    each teacher knows of the training images.
    """

    train_set: Any
    val_set: Any
    metric: Any
    teachers: list[nn.Module]
    memories: list[TeacherMemory]


def build_inputs(
    student: Model, teachers: Sequence[Model], data: Data, train: Split, val: Split | None
) -> Inputs:
    """Parse the splits, and build the teachers with their weights.

    Data and metric have masks if the student has a mask head.
    """
    masks = has_masks(configured(student))
    train_set = build_dataset(train, data, training=True, masks=masks)
    val_set = metric = None
    if val is not None:
        val_set = build_dataset(val, data, training=False)
        metric = build_metric(val, val_set, masks=masks)
    built = [build_teacher(teacher) for teacher in teachers]
    limits = {"megabytes": data.cache_megabytes, "sizes": len(data.train_sizes)}
    memories = [TeacherMemory(one, images=len(train_set), **limits) for one in built]
    return Inputs(train_set, val_set, metric, built, memories)


def train_student(
    student: Any,
    inputs: Inputs,
    distiller: Distiller | None,
    data: Data,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    inherit: bool,
    hooks: list[Hook],
    resumes: bool = False,
) -> dict[str, float]:
    """Train a student on its inputs and score it; see :func:`fit`.

    ``distiller``: None trains the student alone. ``inherit``: a distilled student starts from the
    first teacher's neck and head.
    """
    model = DistilledDetector(
        student,
        inputs.teachers,
        distiller,
        memory=inputs.memories,
        inherit=inherit,
        student_scale=data.student_scale,
    )
    return fit(
        model,
        inputs.train_set,
        schedule,
        folder,
        seed=seed,
        metric=inputs.metric,
        val_set=inputs.val_set,
        hooks=hooks,
        resumes=resumes,
        num_workers=data.num_workers,
    )
