"""The losses of responses as they are written down: of whole tensors, without pieces.

What the product computed before it went piece by piece; positions do count or do not (N, 1, M).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detkds.distillers import BOX_DISTANCES
from torch import Tensor

EPSILON = 1e-6
LARGE = 1e30


def norm_n(p: Tensor, counted: Tensor) -> Tensor:
    share = counted.to(p.dtype) / counted.sum(dim=2, keepdim=True).clamp(min=1)
    centred = p - (torch.where(counted, p, 0) * share).sum(dim=2, keepdim=True)
    squares = torch.where(counted, centred, 0).square()
    return centred * ((squares * share).sum(dim=2, keepdim=True) + EPSILON).rsqrt()


def norm_c(p: Tensor, counted: Tensor) -> Tensor:
    centred = p - p.mean(dim=1, keepdim=True)
    return centred * (centred.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()


def min_max(p: Tensor, counted: Tensor) -> Tensor:
    low = p.masked_fill(~counted, LARGE).amin(dim=(1, 2), keepdim=True)
    high = p.masked_fill(~counted, -LARGE).amax(dim=(1, 2), keepdim=True)
    return (p - low) / (high - low + EPSILON)


def softmax_n(p: Tensor, counted: Tensor) -> Tensor:
    return p.masked_fill(~counted, -LARGE).softmax(dim=2) * counted.sum(dim=2, keepdim=True)


TRANSFORMS = {
    "identity": lambda p, _: p,
    "norm_n": norm_n,
    "norm_c": norm_c,
    "min_max": min_max,
    "softmax_n": softmax_n,
    "softmax_c": lambda p, _: p.softmax(dim=1),
    "pow2": lambda p, _: p.square(),
    "sigmoid": lambda p, _: p.sigmoid(),
}
RESHAPES = {
    "reshape_n": lambda p: p.flatten(1).unsqueeze(-1),
    "reshape_c": lambda p: p.flatten(0, 1).unsqueeze(-1),
}


def transformed(name: str, student: Tensor, teacher: Tensor, counted: Tensor) -> list[Tensor]:
    """Both sides (N, C, M) after a transform, and what counts of them."""
    if name in RESHAPES:
        return [RESHAPES[name](part) for part in (student, teacher, counted.expand_as(student))]
    return [TRANSFORMS[name](student, counted), TRANSFORMS[name](teacher, counted), counted]


def mean(values: Tensor, weight: Tensor) -> Tensor:
    count = weight.sum(dtype=values.dtype) * (values.numel() / weight.numel())
    return (values * weight).sum() / count.clamp(min=EPSILON)


def vectors(weight: Tensor) -> Tensor:
    return weight.amax(dim=1, keepdim=True)


def log_softmax(side: Tensor, weight: Tensor) -> Tensor:
    return side.masked_fill(~weight, -LARGE).log_softmax(dim=1)


def elements(function) -> Tensor:
    return lambda s, t, w: mean(function(s.where(w, 0), t.where(w, 0)), w)


def kl(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    log_p, log_q = (log_softmax(side, w) for side in (t, s))
    return mean((log_p.exp() * (log_p - log_q)).sum(dim=1, keepdim=True), vectors(w))


def jensen_shannon(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    log_q, log_p = (log_softmax(side, w) for side in (s, t))
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    parts = log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)
    rows = (parts.sum(dim=1, keepdim=True) / 2).flatten(1)
    share = vectors(w).to(rows.dtype).flatten(1)
    divergence = (rows * share).sum(dim=1) / share.sum(dim=1).clamp(min=EPSILON)
    return mean(divergence.clamp(min=1e-12).sqrt(), share.amax(dim=1))


def cosine(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    s, t = s.where(w, 0), t.where(w, 0)
    product = (s * t).sum(dim=1, keepdim=True) + 1e-10
    squares = [side.square().sum(dim=1, keepdim=True) + 1e-10 for side in (s, t)]
    return mean(1 - product * (squares[0] * squares[1]).rsqrt(), vectors(w))


def coefficients(s: Tensor, t: Tensor, w: Tensor, dim: int) -> Tensor:
    share = w.expand_as(s).to(s.dtype)
    share = share / share.sum(dim=dim, keepdim=True).clamp(min=EPSILON)
    s, t = (side.where(w, 0) for side in (s, t))
    s, t = (side - (share * side).sum(dim=dim, keepdim=True) for side in (s, t))
    ss, tt, st = ((share * p).sum(dim=dim, keepdim=True) + EPSILON for p in (s * s, t * t, s * t))
    return st * (ss * tt).rsqrt()


def pearson(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return mean(1 - coefficients(s, t, w, dim=1), vectors(w))


def pearson_hw(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return mean(1 - coefficients(s, t, w, dim=2), w.amax(dim=2, keepdim=True))


def correlation(s: Tensor, t: Tensor, w: Tensor) -> Tensor:
    apart = (1 - coefficients(s, t, w, dim=2)).clamp(min=0).pow(2.02).sum(dim=1)
    return torch.log2(1 + apart).mean()


def quality_focal(s: Tensor, t: Tensor, w: Tensor, positives: Tensor) -> Tensor:
    label = t.sigmoid()
    losses = (s.sigmoid() - label).abs()
    losses = losses * F.binary_cross_entropy_with_logits(s, label, reduction="none")
    return torch.where(w, losses, 0).sum() / positives.sum().clamp(min=1)


DISTANCES = {
    "l1": elements(lambda s, t: (s - t).abs()),
    "l2": elements(lambda s, t: (s - t).square()),
    "smooth_l1": elements(lambda s, t: F.smooth_l1_loss(s, t, reduction="none")),
    "kl": kl,
    "jensen_shannon": jensen_shannon,
    "cosine": cosine,
    "pearson": pearson,
    "pearson_hw": pearson_hw,
    "correlation": correlation,
}


def logits_loss(
    transform: str, distance: str, s: Tensor, t: Tensor, counted: Tensor, positives: Tensor
) -> Tensor:
    """The loss of class scores (N, K, M); ``positives``: (N, M)."""
    sides = transformed(transform, s, t, counted)
    if distance == "quality_focal":
        return quality_focal(*sides, positives)
    return DISTANCES[distance](*sides)


def localization_loss(
    transform: str, distance: str, s: Tensor, t: Tensor, counted: Tensor, positives: Tensor
) -> Tensor:
    """The loss of boxes (N, 4, M): of all of them, then masked."""
    ours, theirs, _ = transformed(transform, s, t, counted)
    losses = BOX_DISTANCES[distance](ours.transpose(1, 2), theirs.transpose(1, 2))
    return torch.where(positives, losses, 0).sum() / positives.sum().clamp(min=1)
