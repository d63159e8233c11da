"""What a trial and a full training share: models, data, and the training of a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import load_checkpoint, set_random_seed
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..data.loading import build_metric, built
from ..detectors import (
    TeacherMemory,
    build_detector,
    configured,
    has_masks,
    load_weights,
    without_pretrained,
)
from ..detectors.checkpoints import allow_runner_resume
from ..distillers import DistilledDetector
from ..settings import Data, Model, Schedule, Split
from ..space import Distiller
from .job import make_job, remembered_sizes, scheduled
from .runner import fit

#: The metric that a student is scored by: COCO's box AP, in [0, 1].
SCORE = "bbox_mAP"


def build_student(model: Model, seed: int, weights: str | Path | None = None) -> Any:
    """The student with the weights that it starts from.

    The student starts from ``weights`` if they are given, else from its checkpoint, else from the
    random weights of ``seed``, whatever the student is distilled with; as far as the weights of
    its ``load_from`` fit, they take the place of random ones.
    """
    import_modules_from_strings(model.imports)
    set_random_seed(seed)
    student = build_detector(configured(model), "student")
    start = weights or model.checkpoint
    if start is None:
        with allow_runner_resume(trust=model.trust_checkpoint):
            student.init_weights()
            if model.load_from is not None:
                load_checkpoint(student, model.load_from, map_location="cpu")
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

    ``job``: the training's config, without models and schedule. ``val_set`` and ``metric`` are None
    for a student that is not scored; several evaluators of a job are a list in ``metric``.
    ``memories`` keep what each teacher knows of the training images, or are None.
    """

    job: dict[str, Any]
    train_set: Any
    val_set: Any
    metric: Any
    teachers: list[nn.Module]
    memories: list[TeacherMemory | None]


def build_inputs(
    student: Model,
    teachers: Sequence[Model],
    data: Data,
    train: Split,
    val: Split | None,
    own: Mapping[str, Any] | None = None,
    *,
    full: bool = False,
) -> Inputs:
    """Parse the splits, and build the teachers with their weights.

    ``own``: the section ``job``; ``full``: see :func:`make_job`. Data and metric have masks if the
    student has a mask head.
    """
    import_modules_from_strings(student.imports)
    config = configured(student)
    job = make_job(own or {}, data, train, val, masks=has_masks(config), full=full)
    train_set = built(job["train_dataloader"]["dataset"])
    val_set = metric = None
    if val is not None:
        val_set = built(job["val_dataloader"]["dataset"])
        asked = job["val_evaluator"]
        several = isinstance(asked, list | tuple)
        metrics = [build_metric(one, val_set) for one in (asked if several else [asked])]
        metric = metrics if several else metrics[0]
    models = [build_teacher(teacher) for teacher in teachers]
    sizes = remembered_sizes(job, config)
    memories = [
        None
        if sizes is None
        else TeacherMemory(one, images=len(train_set), megabytes=data.cache_megabytes, sizes=sizes)
        for one in models
    ]
    return Inputs(job, train_set, val_set, metric, models, memories)


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
        scheduled(inputs.job, schedule),
        inputs.train_set,
        folder,
        seed=seed,
        metric=inputs.metric,
        val_set=inputs.val_set,
        hooks=hooks,
        resumes=resumes,
    )
