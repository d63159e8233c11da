"""Why a candidate is rejected: by its losses, in the filter and in training, and its gradients."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

#: "We will filter out candidates with excessive loss values (>100 & nan)" (DetKDS, Section 3.2).
MAX_LOSS = 100.0
#: A gradient in the maps must not have 99 % of its energy in fewer than 1 % of its elements: such a
#: term trains next to nothing. Gradients in responses are concentrated by their nature, on objects.
ENERGY, LEAST_SHARE = 0.99, 0.01

#: What the messages of errors say that lie in a device or in its memory. torch raises them, like
#: errors of shapes, as RuntimeErrors.
_DEVICE = re.compile(r"memory|CUDA|cuDNN|cuBLAS|NCCL", re.IGNORECASE)


class Rejected(Exception):
    """Ends a trial and rejects its candidate; the message is the reason."""


class RejectionHook(Hook):
    """Ends a trial at the first iteration with a loss that is NaN, infinite or above 100."""

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


def shape_error(error: Exception) -> Rejected | None:
    """The rejection for an error of a loss; None for an error of the device or of its memory."""
    message = str(error)
    if not isinstance(error, IndexError) and _DEVICE.search(message):
        return None
    return Rejected(f"shape error: {message.splitlines()[0] if message else type(error).__name__}")


def named_sums(losses: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    """The losses, each as a scalar as mmengine adds them up; other values are left out."""
    for name, value in losses.items():
        if "loss" in name:
            parts = value if isinstance(value, list | tuple) else [value]
            yield name, torch.stack([part.mean() for part in parts]).sum()


def loss_fault(losses: Mapping[str, Tensor]) -> str | None:
    """Why losses, or their sum, make a candidate no good, or None."""
    total = torch.stack(list(losses.values())).sum()
    for name, loss in (*losses.items(), ("the sum of losses", total)):
        reason = excessive(name, float(loss.detach()))
        if reason:
            return reason
    return None


def gradient_fault(gradients: Mapping[str, Sequence[Tensor | None]], maps: int) -> str | None:
    """Why gradients make a candidate no good, or None.

    ``gradients``: of each loss, in all that the student knows, its maps first; None where a loss
    has none. ``maps``: how many of them are gradients in maps.
    """
    found = False
    for name, parts in gradients.items():
        known = [gradient for gradient in parts if gradient is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in known):
            return f"the gradient of {name} is not finite"
        found = found or any(bool(gradient.any()) for gradient in known)
        in_maps = [gradient for gradient in parts[:maps] if gradient is not None]
        share = _share_of_energy(in_maps) if in_maps else 1.0
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
