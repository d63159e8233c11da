"""The distiller filter: candidates tried on one stored batch before any worker is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from ..detectors import Knowledge, Signature, Tap, signature, teacher_knowledge
from ..distillers import DistillationLoss, Renormalise, available_knowledge, boxes_of, shrunk
from ..space import RESPONSE_KNOWLEDGE, Distiller
from ..workers.trial import TrialContext, build_student, excessive


@dataclass(frozen=True)
class StoredBatch:
    """One batch of real student and teacher knowledge, and the boxes that go with it."""

    student: Knowledge
    teacher: Knowledge
    boxes: list[Tensor]
    signatures: tuple[Signature, Signature]

    def reject(self, distiller: Distiller) -> str | None:
        """Why a candidate is no good, or None (DetKDS Section 3.2, "distiller filter").

        Rejected are: a shape error, a loss, or the sum of them, that is NaN, infinite or above 100,
        a gradient that is not finite or zero in every one of the student's maps and responses.
        """
        leaves = self.student.map(_leaf)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                module = DistillationLoss(distiller, *self.signatures)
                losses = module(leaves, self.teacher, self.boxes)
            except (RuntimeError, IndexError) as error:
                return f"shape error: {str(error).splitlines()[0]}"
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
    assert teacher is not None
    images = min(context.schedule.batch_size, len(context.train_set))
    raw = pseudo_collate([context.train_set[index] for index in range(images)])
    batch = student.data_preprocessor(raw, True)
    signatures = signature(student, "student"), signature(teacher, "teacher")
    if context.task.data.student_scale != 1:
        signatures = replace(signatures[0], responses=None), signatures[1]
    responses = bool(set(RESPONSE_KNOWLEDGE) & set(available_knowledge(*signatures)))
    student.train()
    own = shrunk(batch["inputs"], batch["data_samples"], context.task.data.student_scale)
    with torch.no_grad(), Tap(student, responses=responses) as tap:
        student.loss(*own)
    teacher.cpu().eval()
    knowledge = tap.knowledge.map(Tensor.detach)
    inputs = Renormalise(student, teacher)(batch["inputs"])
    return StoredBatch(
        knowledge,
        teacher_knowledge(
            teacher,
            inputs,
            batch["data_samples"],
            responses=responses,
            regions=knowledge.regions,
        ),
        [boxes_of(sample) for sample in batch["data_samples"]],
        signatures,
    )
