"""The distiller filter: candidates tried on one stored batch before any worker is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from torch import Tensor

from ..detectors import (
    Knowledge,
    Levels,
    Signature,
    Tap,
    dense_head,
    signature,
    teacher_knowledge,
)
from ..distillers import DistillationLoss, Renormalise, available_knowledge, boxes_of, shrunk
from ..space import CROSS_KNOWLEDGE, RESPONSE_KNOWLEDGE, Distiller
from ..workers.trial import TrialContext, build_student, excessive


@dataclass(frozen=True)
class StoredBatch:
    """One batch of real student and teacher knowledge, and the boxes that go with it."""

    student: Knowledge
    teacher: Knowledge | None
    boxes: list[Tensor]
    #: The same in pixels of the student's images, where those are smaller than the teacher's.
    own_boxes: list[Tensor]
    labels: list[Tensor]
    signatures: tuple[Signature, Signature | None]
    head: Any = None

    def reject(self, distiller: Distiller) -> str | None:
        """Why a candidate is no good, or None (DetKDS Section 3.2, "distiller filter").

        Rejected are: a shape error, a loss, or the sum of them, that is NaN, infinite or above 100,
        a gradient that is not finite or zero in every one of the student's maps and responses.
        """
        leaves = self.student.map(_leaf)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                module = DistillationLoss(distiller, *self.signatures, self.head)
                module.milestones = 0
                enhanced: Levels = ()
                if module.needs_labels:
                    enhanced = module.enhanced(leaves, self.own_boxes, self.labels)
                losses = module(leaves, self.teacher, self.boxes, enhanced)
            except (RuntimeError, IndexError) as error:
                return f"shape error: {str(error).splitlines()[0]}"
        losses = {name: value for name, value in losses.items() if name.startswith("loss_")}
        total = torch.stack(list(losses.values())).sum()
        for name, loss in (*losses.items(), ("the sum of losses", total)):
            reason = excessive(name, float(loss.detach()))
            if reason:
                return reason
        return _gradient_fault(total, leaves)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _gradient_fault(total: Tensor, leaves: Knowledge) -> str | None:
    inputs = [*leaves.features, *leaves.logits, *leaves.localization]
    inputs += [level for pair in leaves.hidden.values() for branch in pair for level in branch]
    if leaves.predictions is not None:
        inputs += [*leaves.predictions.logits, *leaves.predictions.sides, *leaves.predictions.bins]
    if not total.requires_grad:
        return "zero gradient"
    gradients = [g for g in torch.autograd.grad(total, inputs, allow_unused=True) if g is not None]
    if not all(bool(g.isfinite().all()) for g in gradients):
        return "the gradient is not finite"
    return None if any(bool(g.any()) for g in gradients) else "zero gradient"


def store_batch(context: TrialContext) -> StoredBatch:
    """Run student and teacher once, on the first training images, on the CPU."""
    student = build_student(context.task.student, context.seed, context.warmup)
    teacher = context.teacher
    images = min(context.schedule.batch_size, len(context.train_set))
    raw = pseudo_collate([context.train_set[index] for index in range(images)])
    batch = student.data_preprocessor(raw, True)
    scale = context.task.data.student_scale
    ours = signature(student, "student")
    theirs = None if teacher is None else signature(teacher, "teacher")
    if scale != 1:
        ours = ours.features_only
    available = set(available_knowledge(ours, theirs))
    responses = not available.isdisjoint(RESPONSE_KNOWLEDGE)
    layers = ours.layers.count if ours.layers and not available.isdisjoint(CROSS_KNOWLEDGE) else 0
    positions = range(layers + 1) if layers else ()
    student.train()
    own = shrunk(batch["inputs"], batch["data_samples"], scale)
    MessageHub.get_current_instance().update_info("epoch", 0)  # some heads begin by the epoch
    with torch.no_grad(), Tap(student, responses=responses, positions=positions) as tap:
        student.loss(*own)
    knowledge = tap.knowledge.map(Tensor.detach)
    answered = None
    if teacher is not None:
        teacher.cpu().eval()
        answered = teacher_knowledge(
            teacher,
            Renormalise(student, teacher)(batch["inputs"]),
            batch["data_samples"],
            responses=responses,
            regions=knowledge.regions,
        )
    return StoredBatch(
        knowledge,
        answered,
        [boxes_of(sample) for sample in batch["data_samples"]],
        [boxes_of(sample) for sample in own[1]],
        [sample.gt_instances.labels for sample in batch["data_samples"]],
        (ours, theirs),
        None if teacher is None else dense_head(teacher),
    )
