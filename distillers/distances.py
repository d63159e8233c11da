"""The distances of DetKDS Table 2 and Appendix D.

A distance takes the student's tensor first and the teacher's second, and is 0 where both agree.
The distances of ``DISTANCES`` take transformed knowledge of one shape, (N, C, *), and return a
scalar: axis 1 is the channels, all other axes together are the observations. The distances of
``BOX_DISTANCES`` take boxes as non-negative distances left, top, right, bottom from one prior
point, (..., 4), and return a number a box, (...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
#: Added to squared lengths, so that the cosine of vectors that vanish is defined.
LEAST_SQUARE = 1e-10
#: α of formula (11). The paper prints no value; the formula's source (information-theoretic
#: representation distillation) uses 1.01.
CORRELATION_ALPHA = 1.01
#: Divergence below which the Jensen-Shannon distance goes on to 0 in a straight line.
JS_LEAST = 1e-12
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
SSIM_LEAST_RANGE = 1e-2
#: Positions up to which one matrix blurs a map; larger maps are blurred row by row.
SSIM_SMALL = 64


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference."""
    return torch.linalg.vector_norm(student - teacher, ord=1) / student.numel()


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference.

    Appendix D prints the root of the sum. The root's gradient is undefined where both agree, and
    its size grows with the map; the mean of squares of FitNets and PKD has neither fault.
    """
    return F.mse_loss(student, teacher)


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's mean: quadratic below a difference of 1, linear above."""
    return F.smooth_l1_loss(student, teacher)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the softmax over channels, mean over positions.

    Appendix D takes probabilities of classes; a softmax over axis 1 makes them.
    """
    log_p, log_q = teacher.log_softmax(dim=1), student.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def kl_hw(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each channel's softmax over its positions, mean over channels.

    CWD (Shu et al. 2021), formulas 3 and 4 at a temperature of 1: the loss compares where each
    channel is active.
    """
    log_p, log_q = (side.flatten(2).log_softmax(dim=2) for side in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(dim=2).mean()


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon distance of the softmax over channels (SSSD): at most sqrt(ln 2).

    SSSD prints (1/N) Σ_p D_JS(k^p ‖ k_e^p)^(1/2): a root for each level p. So the distance is the
    root of the divergence's mean over positions. A mean of roots, a root for each position, is
    smaller, and draws a position that hardly differs as much as a position that differs widely.
    Near a divergence of 0 the root's slope is infinite; a straight line to 0 replaces the root
    there.
    """
    log_q, log_p = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    parts = log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)
    divergence = parts.sum(dim=1).mean().clamp(min=0) / 2
    root = divergence.clamp(min=JS_LEAST).sqrt()
    return torch.where(divergence > JS_LEAST, root, divergence / math.sqrt(JS_LEAST))


def quality_focal(student: Tensor, teacher: Tensor) -> Tensor:
    """Quality focal loss of every logit at γ = 1, with the teacher's score as the soft label.

    CrossKD, formula (7). The result has the shape of the logits: it is not yet a mean.
    """
    label = teacher.sigmoid()
    difference = (student.sigmoid() - label).abs()
    return difference * F.binary_cross_entropy_with_logits(student, label, reduction="none")


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the two channel vectors, mean over positions; 0 where both vanish."""
    product = (student * teacher).sum(dim=1)
    squares = [side.square().sum(dim=1) + LEAST_SQUARE for side in (student, teacher)]
    return (1 - (product + LEAST_SQUARE) * (squares[0] * squares[1]).rsqrt()).mean()


def _channel_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson's r of each channel over its observations: (C,)."""
    s = student.transpose(0, 1).flatten(1)
    t = teacher.transpose(0, 1).flatten(1)
    s = s - s.mean(dim=1, keepdim=True)
    t = t - t.mean(dim=1, keepdim=True)
    scale = (s.square().mean(dim=1) + EPSILON) * (t.square().mean(dim=1) + EPSILON)
    return ((s * t).mean(dim=1) + EPSILON) * scale.rsqrt()


def pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - Pearson's r of each channel over its observations, mean over channels.

    On plain feature maps this is PKD: half the squared distance of standardised channels.
    """
    return (1 - _channel_correlation(student, teacher)).mean()


def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Formula (11) on the diagonal v of the cross-correlation matrix: log2(1 + Σ|v - 1|^2α).

    The 1 is ours: without the 1 the loss goes to -∞, and its gradient to ∞, as both agree.
    """
    v = _channel_correlation(student, teacher)
    return torch.log2(1 + (1 - v).clamp(min=0).pow(2 * CORRELATION_ALPHA).sum())


def _blur(maps: Tensor) -> Tensor:
    """Gaussian mean of (B, H, W) under the window, renormalised where it leaves the map.

    The blur is a product with two band matrices whose rows sum to 1. For small maps the Kronecker
    product of both matrices is used: a convolution of one channel, and a batch of small products,
    are slow on many small maps.
    """
    rows, columns = (_band(length, maps) for length in maps.shape[-2:])
    if maps[0].numel() <= SSIM_SMALL:
        return (maps.flatten(1) @ torch.kron(rows, columns).T).view_as(maps)
    return rows @ maps @ columns.T


def _band(length: int, like: Tensor) -> Tensor:
    """(length, length): the Gaussian window around each position, rows summing to 1."""
    position = torch.arange(length, device=like.device, dtype=like.dtype)
    offset = position[None, :] - position[:, None]
    weight = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    weight = weight * (offset.abs() <= SSIM_WINDOW // 2)
    return weight / weight.sum(dim=1, keepdim=True)


def ssim(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 - SSIM) / 2, in [0, 1], of each channel map under an 11 x 11 Gaussian window (SKD).

    A window that leaves the map is renormalised, so a map may be smaller than the window. L, the
    dynamic range, is the teacher's.
    """
    h, w = student.shape[-2:]
    s, t = student.reshape(-1, h, w), teacher.reshape(-1, h, w)
    centre_s, centre_t = s.mean(dim=(1, 2), keepdim=True), t.mean(dim=(1, 2), keepdim=True)
    s, t = s - centre_s, t - centre_t  # without large means, variances lose no digits
    mean_s, mean_t, ss, tt, st = _blur(torch.cat([s, t, s * s, t * t, s * t])).chunk(5)
    variances = (ss - mean_s**2).clamp(min=0) + (tt - mean_t**2).clamp(min=0)
    covariance = st - mean_s * mean_t
    mu_s, mu_t = mean_s + centre_s, mean_t + centre_t
    low, high = torch.aminmax(teacher.detach())
    dynamic_range = (high - low).clamp(min=SSIM_LEAST_RANGE)
    c1, c2 = (SSIM_K1 * dynamic_range) ** 2, (SSIM_K2 * dynamic_range) ** 2
    luminance = (2 * mu_s * mu_t + c1) / (mu_s**2 + mu_t**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return ((1 - luminance * structure) / 2).mean()


@dataclass(frozen=True)
class _Overlap:
    """What all losses of the IoU family are made of, (...) or (..., 2) each."""

    iou: Tensor
    union: Tensor
    size_s: Tensor
    size_t: Tensor
    enclosing: Tensor
    centre: Tensor


def _overlap(student: Tensor, teacher: Tensor) -> _Overlap:
    s_low, s_high = student.split(2, dim=-1)
    t_low, t_high = teacher.split(2, dim=-1)
    size_s, size_t = s_low + s_high, t_low + t_high
    # Boxes around one prior overlap; CrossKD's boxes may lie apart.
    sides = (torch.minimum(s_low, t_low) + torch.minimum(s_high, t_high)).clamp(min=0)
    enclosing = torch.maximum(s_low, t_low) + torch.maximum(s_high, t_high)
    intersection = sides.prod(dim=-1)
    union = size_s.prod(dim=-1) + size_t.prod(dim=-1) - intersection
    offset = ((s_high - s_low) - (t_high - t_low)) / 2
    centre = offset.square().sum(dim=-1) / (enclosing.square().sum(dim=-1) + EPSILON)
    iou = (intersection + EPSILON) / (union + EPSILON)
    return _Overlap(iou, union, size_s, size_t, enclosing, centre)


def iou(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - IoU."""
    return 1 - _overlap(student, teacher).iou


def log_iou(student: Tensor, teacher: Tensor) -> Tensor:
    """-log IoU (UnitBox, Yu et al. 2016), the loss of FCOS; at most -log(1e-6)."""
    return -_overlap(student, teacher).iou.clamp(min=EPSILON).log()


def giou(student: Tensor, teacher: Tensor) -> Tensor:
    """Generalised IoU loss (Rezatofighi et al. 2019); Appendix D's own formula is not it."""
    box = _overlap(student, teacher)
    area = box.enclosing.prod(dim=-1)
    return 1 - box.iou + (area - box.union) / (area + EPSILON)


def diou(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance IoU loss (Zheng et al. 2020)."""
    box = _overlap(student, teacher)
    return 1 - box.iou + box.centre


def ciou(student: Tensor, teacher: Tensor) -> Tensor:
    """Complete IoU loss (Zheng et al. 2020); its trade-off α gets no gradient, as published."""
    box = _overlap(student, teacher)
    angle_s = torch.atan2(box.size_s[..., 0], box.size_s[..., 1] + EPSILON)
    angle_t = torch.atan2(box.size_t[..., 0], box.size_t[..., 1] + EPSILON)
    v = 4 / math.pi**2 * (angle_s - angle_t).square()
    with torch.no_grad():
        alpha = v / (1 - box.iou + v + EPSILON)
    return 1 - box.iou + box.centre + alpha * v


def eiou(student: Tensor, teacher: Tensor) -> Tensor:
    """Efficient IoU loss (Zhang et al. 2022): centre, width and height penalties."""
    box = _overlap(student, teacher)
    sides = (box.size_s - box.size_t).square() / (box.enclosing.square() + EPSILON)
    return 1 - box.iou + box.centre + sides.sum(dim=-1)


Distance = Callable[[Tensor, Tensor], Tensor]

DISTANCES: dict[str, Distance] = {
    f.__name__: f
    for f in (l1, l2, smooth_l1, kl, kl_hw, jensen_shannon, cosine, pearson, correlation, ssim)
}
BOX_DISTANCES: dict[str, Distance] = {f.__name__: f for f in (iou, log_iou, giou, diou, ciou, eiou)}
