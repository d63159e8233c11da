"""The distiller filter: candidates are tried on one stored batch before any worker is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from torch import Tensor

from ..detectors import Knowledge, dense_head, signature
from ..distillers import (
    DistillationLoss,
    FrozenTeacher,
    Observation,
    Pair,
    observe,
    possible_needs,
)
from ..space import Distiller
from ..workers.trial import TrialContext, build_student, excessive


@dataclass(frozen=True)
class StoredBatch:
    """One batch of real student and teacher knowledge, and the pair of detectors behind it."""

    observation: Observation
    pair: Pair

    def reject(self, distiller: Distiller) -> str | None:
        """Why a candidate is no good, or None (DetKDS Section 3.2, "distiller filter").

        The filter rejects a shape error; a loss that is NaN, infinite or above 100, or a sum of
        losses that is; a gradient that is not finite, or zero in all of the student's maps and
        responses. The losses are those that the distiller adds to the student's own.
        """
        student = self.observation.student.map(_leaf)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                module = DistillationLoss(distiller, self.pair)
                module.follow(lambda: 0)
                losses = dict(_named_sums(module(replace(self.observation, student=student))))
            except (RuntimeError, IndexError) as error:
                return f"shape error: {str(error).splitlines()[0]}"
        total = torch.stack(list(losses.values())).sum()
        for name, loss in (*losses.items(), ("the sum of losses", total)):
            reason = excessive(name, float(loss.detach()))
            if reason:
                return reason
        distances = [loss for name, loss in losses.items() if name.startswith("loss_")]
        return _gradient_fault(torch.stack(distances).sum(), student)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _named_sums(losses: dict) -> Iterable[tuple[str, Tensor]]:
    """The losses, each as a scalar as mmengine adds them up; other values are left out."""
    for name, value in losses.items():
        if "loss" in name:
            parts = value if isinstance(value, list | tuple) else [value]
            yield name, torch.stack([part.mean() for part in parts]).sum()


def _gradient_fault(total: Tensor, student: Knowledge) -> str | None:
    """Why the gradient in what the student knows makes the candidate no good, or None."""
    inputs: list[Tensor] = []

    def keep(leaf: Tensor) -> Tensor:
        if leaf.requires_grad:
            inputs.append(leaf)
        return leaf

    student.map(keep)
    if not total.requires_grad:
        return "zero gradient"
    gradients = [g for g in torch.autograd.grad(total, inputs, allow_unused=True) if g is not None]
    if not all(bool(g.isfinite().all()) for g in gradients):
        return "the gradient is not finite"
    return None if any(bool(g.any()) for g in gradients) else "zero gradient"


def store_batch(context: TrialContext) -> StoredBatch:
    """Run student and teacher once, on the first training images, on the CPU."""
    student = build_student(context.task.student, context.seed, context.warmup).train()
    images = min(context.schedule.batch_size, len(context.train_set))
    raw = pseudo_collate([context.train_set[index] for index in range(images)])
    batch = student.data_preprocessor(raw, True)
    scale = context.task.data.student_scale
    ours = signature(student, "student")
    if scale != 1:
        ours = ours.features_only
    teachers, pair = [], Pair(ours)
    for teacher in context.teachers:
        teachers = [FrozenTeacher(teacher.cpu(), student)]
        pair = Pair(ours, signature(teacher, "teacher"), dense_head(teacher))
    MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD's head asks for the epoch
    with torch.no_grad():
        observation = observe(
            student, teachers, batch["inputs"], batch["data_samples"], possible_needs(pair), scale
        )
    return StoredBatch(observation, pair)
