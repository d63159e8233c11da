"""The distiller filter: a candidate is tried on one stored batch before a student is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    KINDS,
    DistillationLoss,
    FrozenTeacher,
    Needs,
    Observation,
    Pair,
    observe,
    signature_once,
    student_view,
)
from ..settings import Task
from ..space import Distiller, Term
from .rejection import Rejected, gradient_fault, loss_fault, named_sums, shape_error
from .resuming import seeded
from .student import Inputs, build_student

#: The seed of all that the filter draws: adapters' weights, masks, regions.
SEED = 0


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """A batch of images with the neck's maps of student and teacher, and the heads behind them.

    Of a candidate's pass nothing stays in memory. The batch takes the maps, the images and the
    student's head.
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

    def observe(self, maps: Levels, needs: Needs) -> Observation:
        """What the student's head makes of ``maps``, and what the teacher knows of the batch."""
        set_random_seed(SEED)
        MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD's head asks for the epoch
        return observe(
            head_of_maps(self.student, maps),
            self.teachers,
            self.images,
            copy_samples(self.samples),
            needs,
            self.scale,
        )

    def check(self, distiller: Distiller) -> None:
        """Raise :class:`Rejected` if a candidate is no good (DetKDS Section 3.2).

        The filter rejects a shape error; a loss that is NaN, infinite or above 100, or a sum of
        losses that is; a gradient that is not finite, or zero in all of the student's maps and
        responses; a term whose gradient sits in less than 1 % of the maps' elements that have a
        gradient. The losses are those that the distiller adds to the student's own. The result does
        not depend on random states, and the check leaves them as they are.
        """
        if not distiller.active:
            return
        with seeded(SEED):
            needs = Needs.of(KINDS[t.knowledge](t, self.pair).needs for t in distiller.active)
            observation = self.observe(tuple(_leaf(level) for level in self.maps), needs)
            parts = _Parts.of(observation)
            terms = [self._tried(term, parts) for term in distiller.active]
        losses: dict[str, Tensor] = {}
        for one in terms:
            losses |= {**one.extra, one.name: one.term.weight * one.value}
        reason = loss_fault(losses) or gradient_fault(
            {one.name: one.weighted for one in terms}, maps=len(self.maps)
        )
        if reason:
            raise Rejected(reason)

    def _tried(self, term: Term, parts: _Parts) -> _Tried:
        """A term's loss at weight 1, and its gradient. Other terms do not change the result."""
        set_random_seed(SEED)
        try:
            module = DistillationLoss(Distiller((replace(term, weight=1.0),)), self.pair)
            module.to(self.images.device).follow(lambda: 0)
            losses = dict(named_sums(module(parts.observation)))
        except (RuntimeError, IndexError) as error:
            rejection = shape_error(error)
            if rejection is None:
                raise
            raise rejection from None
        value = losses.pop(f"loss_{term.knowledge}")
        gradients: tuple[Tensor | None, ...] = (None,) * len(parts.leaves)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, parts.leaves, allow_unused=True)
        extra = {name: loss.detach() for name, loss in losses.items()}
        return _Tried(term, value.detach(), extra, gradients)


@dataclass(frozen=True)
class _Parts:
    """An observation whose student's maps and responses are leaves, each for its own gradient."""

    observation: Observation
    leaves: list[Tensor]

    @classmethod
    def of(cls, observation: Observation) -> _Parts:
        leaves: list[Tensor] = []

        def apart(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            leaves.append(_leaf(tensor))
            return leaves[-1]

        return cls(replace(observation, student=observation.student.map(apart)), leaves)


@dataclass(frozen=True)
class _Tried:
    """A term on the batch."""

    term: Term
    #: The distance.
    value: Tensor
    #: What else the term trains the student by.
    extra: dict[str, Tensor]
    #: The gradient of the distance in each leaf; None where there is none.
    gradients: tuple[Tensor | None, ...]

    @property
    def name(self) -> str:
        return f"loss_{self.term.knowledge}"

    @property
    def weighted(self) -> list[Tensor | None]:
        """The gradient at the term's weight."""
        return [None if part is None else self.term.weight * part for part in self.gradients]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


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
        raw = pseudo_collate([inputs.train_set[index] for index in range(count)])
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
