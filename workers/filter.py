"""The distiller filter: a candidate is tried on the stored batch before a student is trained.

The same pass compares each term's gradient with the detection loss's, which is what a weight in
shares means. Both are taken in the maps of the student's neck, at the levels that student and
teacher share: there all terms and the detection loss meet, whether through the head or not. The
student has the weights of the warm-up, if the search has a warm-up. Without, shares describe a
student that has learned nothing, whose detection loss is steeper than it will be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.runner import set_random_seed
from torch import Tensor

from ..detectors import Levels
from ..distillers import KINDS, DistillationLoss, Needs, Observation
from ..space import PLAIN, PLAIN_WEIGHT, SHARE, Distiller, Term
from .rejection import Rejected, gradient_fault, loss_fault, named_sums, shape_error
from .resuming import seeded
from .stored_batch import SEED, StoredBatch

#: Significant digits of a plain weight.
DIGITS = 3
#: The share of the detection loss that the virtual step would take along the loss's own gradient.
STEP = 0.1


@dataclass(frozen=True)
class Measured:
    """A candidate with plain weights, and what the batch says of it, by name."""

    distiller: Distiller
    metrics: dict[str, float]


def measure(batch: StoredBatch, distiller: Distiller, *, filtered: bool = True) -> Measured:
    """A candidate's plain weights and what the batch says of it; raises :class:`Rejected`.

    The filter (DetKDS Section 3.2) rejects a shape error; a loss that is NaN, infinite or above
    100, or a sum of losses that is; a gradient that is not finite, or zero in all of the
    student's maps and responses; a term whose gradient sits in less than 1 % of the maps'
    elements that have a gradient. The losses are those that the distiller adds to the student's
    own. If not ``filtered``, a candidate is rejected only for a shape error, or for a share that no
    plain weight gives. The result does not depend on random states, which stay as they are.
    """
    if not distiller.active:  # the student alone
        return Measured(distiller.with_plain_weights({}), {})
    with seeded(SEED):
        maps = tuple(_leaf(level) for level in batch.maps)
        needs = Needs.of(KINDS[t.knowledge](t, batch.pair).needs for t in distiller.active)
        parts = _Parts.of(batch.observe(maps, needs, batch.teachers))
        shared = [maps[level] for level in batch.pair.levels.student]
        loss = _sum_of(parts.whole.losses)
        detection = _gradients([loss], shared)
        tried = [_tried(batch, term, parts) for term in distiller.active]
        in_maps = [parts.carried(one.gradients, shared) for one in tried]
        weights = {
            one.term.knowledge: _plain(one, _norm(detection), _norm(gradients))
            for one, gradients in zip(tried, in_maps, strict=True)
            if one.term.unit == SHARE
        }
        plain = distiller.with_plain_weights(weights)
        factors = [term.weight for term in plain.active]
        if filtered:
            _check(tried, factors, len(maps))
        distillation = [
            torch.stack([f * g for f, g in zip(factors, level, strict=True)]).sum(0)
            for level in zip(*in_maps, strict=True)
        ]
        metrics = _scores(batch, maps, loss.detach(), detection, distillation)
    named = {f"{PLAIN_WEIGHT}{knowledge}": weight for knowledge, weight in weights.items()}
    return Measured(plain, {**named, **metrics})


def _tried(batch: StoredBatch, term: Term, parts: _Parts) -> _Tried:
    """A term's loss at weight 1, and its gradient. Other terms do not change the result."""
    set_random_seed(SEED)
    try:
        alone = Distiller((replace(term, weight=1.0, unit=PLAIN),))
        module = DistillationLoss(alone, batch.pair)
        module.to(batch.images.device).follow(lambda: 0)
        losses = dict(named_sums(module(parts.apart)))
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


def _scores(
    batch: StoredBatch,
    maps: Levels,
    loss: Tensor,
    detection: list[Tensor],
    distillation: list[Tensor],
) -> dict[str, float]:
    """How the gradients of detection loss and distillation compare in the shared maps.

    ``filter/share``: the size of the distillation's, in shares of the other; ``filter/cosine``:
    the cosine between the two; ``filter/drop``: by which share the detection loss falls after
    one step of the maps along the distillation's gradient. The step is as long as the step
    along the detection loss's own gradient that would lower that loss by :data:`STEP`, if the
    loss were linear: the drop would be the cosine times :data:`STEP`. A value that is no number
    is left out.
    """
    ours, theirs = _norm(detection), _norm(distillation)
    if not ours or not theirs:
        return {}
    product = sum(
        float((a.double() * b).sum()) for a, b in zip(detection, distillation, strict=True)
    )
    scores = {"share": theirs / ours, "cosine": product / (ours * theirs)}
    length = STEP * float(loss) / (ours * theirs)
    moved = [level.detach().clone() for level in maps]
    for level, gradient in zip(batch.pair.levels.student, distillation, strict=True):
        moved[level] -= length * gradient
    with torch.no_grad():
        after = _sum_of(batch.observe(tuple(moved), Needs(), ()).losses)
    scores["drop"] = 1 - float(after) / float(loss)
    return {f"filter/{name}": value for name, value in scores.items() if math.isfinite(value)}


@dataclass(frozen=True)
class _Parts:
    """An observation, and a copy whose student's maps and responses are leaves.

    A term has a gradient of its own in each leaf. Through the head, the gradients in responses
    reach the maps.
    """

    whole: Observation
    apart: Observation
    #: What the student knows, its maps first, and the leaves that stand for it.
    known: list[Tensor]
    leaves: list[Tensor]

    @classmethod
    def of(cls, whole: Observation) -> _Parts:
        known: list[Tensor] = []
        leaves: list[Tensor] = []

        def cut(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            known.append(tensor)
            leaves.append(_leaf(tensor))
            return leaves[-1]

        return cls(whole, replace(whole, student=whole.student.map(cut)), known, leaves)

    def carried(self, gradients: Sequence[Tensor | None], maps: list[Tensor]) -> list[Tensor]:
        """The gradient in ``maps`` of a loss that has ``gradients`` in the leaves."""
        pairs = [
            (tensor, gradient)
            for tensor, gradient in zip(self.known, gradients, strict=True)
            if gradient is not None and tensor.requires_grad
        ]
        return _gradients([one for one, _ in pairs], maps, [one for _, one in pairs])


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


def _check(tried: list[_Tried], weights: list[float], maps: int) -> None:
    """Raise :class:`Rejected` if the losses or the gradients of terms are no good."""
    losses: dict[str, Tensor] = {}
    gradients: dict[str, list[Tensor | None]] = {}
    for one, weight in zip(tried, weights, strict=True):
        losses |= {**one.extra, one.name: weight * one.value}
        gradients[one.name] = [None if part is None else weight * part for part in one.gradients]
    reason = loss_fault(losses) or gradient_fault(gradients, maps)
    if reason:
        raise Rejected(reason)


def _plain(tried: _Tried, detection: float, own: float) -> float:
    """The plain weight of a share, from the sizes of the detection loss's gradient and its own."""
    if not (0 < detection < math.inf and 0 < own < math.inf):
        raise Rejected(
            f"no weight makes a share of {tried.name}: in the maps its gradient has the size "
            f"{own:.3g}, the detection loss's {detection:.3g}"
        )
    return float(f"{tried.term.weight * detection / own:.{DIGITS}g}")


def _norm(gradients: list[Tensor]) -> float:
    """The L2 norm of a gradient in several maps."""
    return math.sqrt(sum(float(level.double().square().sum()) for level in gradients))


def _gradients(
    losses: list[Tensor], maps: list[Tensor], of: list[Tensor] | None = None
) -> list[Tensor]:
    """The gradient of losses in maps, 0 where there is none. ``of``: gradients in the losses."""
    if not losses:
        return [torch.zeros_like(level) for level in maps]
    return list(
        torch.autograd.grad(
            losses, maps, of, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def _sum_of(losses: Mapping[str, Any]) -> Tensor:
    return torch.stack([loss for _, loss in named_sums(losses)]).sum()


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()
