"""The distiller filter: candidates are tried on one stored batch before any worker is used."""

from __future__ import annotations

import math
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

#: A gradient in the maps must not have 99 % of its energy in fewer than 1 % of its elements: such a
#: term trains next to nothing. Gradients in responses are concentrated by their nature, on objects.
ENERGY, LEAST_SHARE = 0.99, 0.01


@dataclass(frozen=True)
class StoredBatch:
    """One batch of real student and teacher knowledge, and the pair of detectors behind it."""

    observation: Observation
    pair: Pair

    def reject(self, distiller: Distiller) -> str | None:
        """Why a candidate is no good, or None (DetKDS Section 3.2, "distiller filter").

        The filter rejects a shape error; a loss that is NaN, infinite or above 100, or a sum of
        losses that is; a gradient that is not finite, or zero in all of the student's maps and
        responses; a term whose gradient sits in less than 1 % of the maps' elements that have a
        gradient. The losses are those that the distiller adds to the student's own. The student
        alone passes.
        """
        if not distiller.active:
            return None
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
        distances = {name: loss for name, loss in losses.items() if name.startswith("loss_")}
        return _gradient_fault(distances, student)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _named_sums(losses: dict) -> Iterable[tuple[str, Tensor]]:
    """The losses, each as a scalar as mmengine adds them up; other values are left out."""
    for name, value in losses.items():
        if "loss" in name:
            parts = value if isinstance(value, list | tuple) else [value]
            yield name, torch.stack([part.mean() for part in parts]).sum()


def _gradient_fault(losses: dict[str, Tensor], student: Knowledge) -> str | None:
    """Why the gradients in what the student knows make the candidate no good, or None."""
    inputs: list[Tensor] = []

    def keep(leaf: Tensor) -> Tensor:
        if leaf.requires_grad:
            inputs.append(leaf)
        return leaf

    student.map(keep)
    found = False
    for name, loss in losses.items():
        if not loss.requires_grad:
            continue
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
        known = [gradient for gradient in gradients if gradient is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in known):
            return f"the gradient of {name} is not finite"
        found = found or any(bool(gradient.any()) for gradient in known)
        # The first inputs are the maps.
        maps = [gradient for gradient in gradients[: len(student.features)] if gradient is not None]
        share = _share_of_energy(maps) if maps else 1.0
        if share < LEAST_SHARE:
            return f"the gradient of {name} sits in {100 * share:.2g} % of its elements"
    return None if found else "zero gradient"


def _share_of_energy(gradients: list[Tensor]) -> float:
    """The smallest share of the elements with a gradient that holds 99 % of the gradient's energy.

    Energy is the sum of squares. A share of at least :data:`LEAST_SHARE` comes out as 1.
    """
    squares = torch.cat([gradient.flatten() for gradient in gradients]).double().square()
    count = int(squares.count_nonzero())
    few = math.ceil(LEAST_SHARE * count)
    if not few:
        return 1.0
    reached = squares.topk(few).values.cumsum(0) >= ENERGY * squares.sum()
    return (int((~reached).sum()) + 1) / count if bool(reached[-1]) else 1.0


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
