"""The stored batch on which the filter tries candidates: what student and teacher know of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.runner import set_random_seed
from torch import Tensor

from ..detectors import (
    Levels,
    copy_samples,
    dense_head,
    head_of_maps,
    inherit,
    signature,
)
from ..distillers import (
    FrozenTeacher,
    Needs,
    Observation,
    Pair,
    observe,
    signature_once,
    student_view,
)
from ..settings import Task
from .resuming import seeded
from .student import Inputs, build_student

#: The seed of all that is drawn on the batch: regions, adapters' weights, masks.
SEED = 0


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """A batch of images with the neck's maps of student and teacher, and the heads behind them.

    Nothing else stays in memory from candidate to candidate.
    """

    #: The student's head, as trials start from it, behind :func:`head_of_maps`.
    student: Any
    #: The student's maps (N, C, H, W), level by level.
    maps: Levels
    #: The teacher, if there is one, behind its own maps.
    teachers: tuple[FrozenTeacher, ...]
    #: (N, 3, H, W), normalised for the student, in the teacher's size.
    images: Tensor
    samples: list
    #: From the teacher's images to the student's.
    scale: float
    pair: Pair

    def observe(
        self, maps: Levels, needs: Needs, teachers: tuple[FrozenTeacher, ...]
    ) -> Observation:
        """What the student's head makes of ``maps``, and what teachers know of the batch."""
        set_random_seed(SEED)
        MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD's head asks for the epoch
        return observe(
            head_of_maps(self.student, maps),
            teachers,
            self.images,
            copy_samples(self.samples),
            needs,
            self.scale,
        )


def store_batch(
    inputs: Inputs, task: Task, size: int, *, seed: int, warmup: str | None
) -> StoredBatch:
    """Run backbone and neck of student and teacher once, on the first ``size`` training images.

    They run where trials run. The student has the weights that trials start from: those of
    ``warmup``, the file of the warm-up's, if there is one.
    """
    scale = task.data.student_scale
    device = get_device()
    with seeded(seed), torch.no_grad():
        student = build_student(task.student, seed, warmup)
        ours = signature(student, "student")
        if scale != 1:
            ours = ours.features_only
        pair = Pair(ours)
        if inputs.teachers:
            theirs = signature_once(inputs.teachers[0])
            pair = Pair(ours, theirs, dense_head(inputs.teachers[0]))
            if task.inherit:
                inherit(student, inputs.teachers[0])
        student.to(device).train().requires_grad_(False)
        count = min(size, len(inputs.train_set))
        # As mmengine's loader does: CachedMosaic and its like remember images that they have seen.
        train_set = copy.deepcopy(inputs.train_set)
        raw = pseudo_collate([train_set[index] for index in range(count)])
        batch = student.data_preprocessor(raw, True)
        images, samples = batch["inputs"], batch["data_samples"]
        own_images, _ = student_view(student, images, samples, scale)
        maps = tuple(student.extract_feat(own_images))
        teachers = tuple(
            _behind_maps(teacher.to(device), student, images) for teacher in inputs.teachers
        )
    return StoredBatch(
        student=head_of_maps(student, maps),
        maps=maps,
        teachers=teachers,
        images=images,
        samples=samples,
        scale=scale,
        pair=pair,
    )


def _behind_maps(teacher: Any, student: Any, images: Tensor) -> FrozenTeacher:
    """The teacher's head behind its maps of ``images``, which are normalised for the student."""
    whole = FrozenTeacher(teacher, student)
    maps = tuple(teacher.extract_feat(whole.renormalise(images)))
    return FrozenTeacher(head_of_maps(teacher, maps), student)
