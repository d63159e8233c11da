"""The distances of maps and class scores: DetKDS Table 2 and Appendix D.

A distance takes the student's tensor first and the teacher's second, and is 0 where both agree. The
distances in this file take transformed knowledge of one shape, (N, C, *), and return a scalar. Axis
0 holds the samples (images, crops, patches), axis 1 the channels, all other axes together the
positions. ``weight`` is None, or 1 where a position counts and 0 elsewhere: a tensor of shape (N,
1, *), or, for responses that are reshaped to vectors, (N, C, 1). A mean is then over what counts;
the rest changes neither the distance nor its gradient, even where the rest is infinite.

Every distance but ``pearson`` is a mean over samples: 16 images in one batch, 8 batches of 2 whose
gradients are accumulated, and 8 processes with 2 each have the same gradient, except that a mean
over what counts divides an accumulated batch by its own count, as mmdet's own losses do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .processes import mean_over_processes, sum_over_processes

EPSILON = 1e-6
#: Added to squared lengths, so that the cosine of vectors that vanish is defined.
LEAST_SQUARE = 1e-10
#: Divergence below which the Jensen-Shannon distance goes on to 0 in a straight line.
JS_LEAST = 1e-12
#: The logit of an entry of a weight of 0: its probability is 0.
HIDDEN_LOGIT = -1e30
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
SSIM_LEAST_RANGE = 1e-2
#: Positions up to which one matrix blurs a map; larger maps are blurred row by row.
SSIM_SMALL = 64


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of the values that count, a scalar; over all processes, as a share of each."""
    if weight is None:
        return values.mean()
    return (values * weight).sum() / _number(values, weight)


def _number(values: Tensor, weight: Tensor) -> Tensor:
    """How many values count, as a mean over processes; at least a trifle."""
    broadcast = values.numel() / weight.numel()
    counted = weight.sum(dtype=values.dtype) * broadcast
    return mean_over_processes(counted).clamp(min=EPSILON)


def _difference(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Student minus teacher, and 0 where the weight is 0."""
    return (student - teacher).masked_fill_(weight <= 0, 0)


def _of_vectors(weight: Tensor | None) -> Tensor | None:
    """The weights of channel vectors, (N, 1, *), from those of their entries."""
    return weight if weight is None or weight.shape[1] == 1 else weight.amax(dim=1, keepdim=True)


def _log_softmax(logits: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """log softmax over the entries of a weight above 0."""
    if weight is not None:
        logits = logits.masked_fill(weight <= 0, HIDDEN_LOGIT)
    return logits.log_softmax(dim=dim)


def _visible(student: Tensor, teacher: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both with 0 where the weight is 0; a number that does not count may be infinite."""
    if weight is None:
        return student, teacher
    return torch.where(weight > 0, student, 0), torch.where(weight > 0, teacher, 0)


def l1(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference."""
    if weight is None:
        return torch.linalg.vector_norm(student - teacher, ord=1) / student.numel()
    difference = student - teacher
    if weight.shape[1] == 1:  # a whole position counts or not: one pass over all channels less
        sums = torch.linalg.vector_norm(difference, ord=1, dim=1, keepdim=True)
        return sums.masked_fill(weight <= 0, 0).sum() / _number(difference, weight)
    absolute = difference.abs().masked_fill_(weight <= 0, 0)
    return absolute.sum() / _number(difference, weight)


def l2(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference.

    Appendix D prints the root of the sum. The root's gradient is undefined where both agree, and
    its size grows with the map; the mean of squares of FitNets and PKD has neither fault.
    """
    if weight is None:
        return F.mse_loss(student, teacher)
    difference = _difference(student, teacher, weight)
    return difference.square().sum() / _number(difference, weight)


def smooth_l1(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Huber's mean: quadratic below a difference of 1, linear above."""
    if weight is None:
        return F.smooth_l1_loss(student, teacher)
    difference = _difference(student, teacher, weight)
    total = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum")
    return total / _number(difference, weight)


def kl(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """KL(teacher ‖ student) of the softmax over channels, mean over positions.

    Appendix D takes probabilities of classes; a softmax over axis 1 makes them.
    """
    log_p, log_q = (_log_softmax(side, weight, 1) for side in (teacher, student))
    return _mean((log_p.exp() * (log_p - log_q)).sum(dim=1, keepdim=True), _of_vectors(weight))


def kl_hw(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """KL(teacher ‖ student) of each channel's softmax over its positions, mean over channels.

    CWD (Shu et al. 2021), formulas 3 and 4 at a temperature of 1: the loss compares where each
    channel is active.
    """
    flat = None if weight is None else weight.flatten(2)
    log_p, log_q = (_log_softmax(side.flatten(2), flat, 2) for side in (teacher, student))
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=2)
    return _mean(divergence, None if flat is None else flat.amax(dim=2))


def jensen_shannon(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """Jensen-Shannon distance of the softmax over channels (SSSD): at most sqrt(ln 2).

    SSSD prints (1/N) Σ_p D_JS(k^p ‖ k_e^p)^(1/2): a root for each level p. So the distance is the
    root of the divergence's mean over the positions of a sample, then the mean over samples. A mean
    of roots, a root for each position, is smaller, and draws a position that hardly differs as much
    as a position that differs widely. Near a divergence of 0 the root's slope is infinite; a
    straight line to 0 replaces the root there.
    """
    log_q, log_p = (_log_softmax(side, weight, 1) for side in (student, teacher))
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    parts = log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)
    divergence = parts.sum(dim=1, keepdim=True) / 2
    rows = divergence.flatten(1)
    if weight is None:
        return js_root(rows.mean(dim=1)).mean()
    share = weight.amax(dim=1).to(divergence.dtype).flatten(1)
    mean = (rows * share).sum(dim=1) / share.sum(dim=1).clamp(min=EPSILON)
    return _mean(js_root(mean), share.amax(dim=1))


def js_root(divergence: Tensor) -> Tensor:
    """The root of a divergence; near 0, where its slope is infinite, a straight line instead."""
    divergence = divergence.clamp(min=0)
    root = divergence.clamp(min=JS_LEAST).sqrt()
    return torch.where(divergence > JS_LEAST, root, divergence / math.sqrt(JS_LEAST))


def cosine(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - cosine of the two channel vectors, mean over positions; 0 where both vanish."""
    student, teacher = _visible(student, teacher, weight)
    product = (student * teacher).sum(dim=1, keepdim=True)
    squares = [side.square().sum(dim=1, keepdim=True) + LEAST_SQUARE for side in (student, teacher)]
    cosines = (product + LEAST_SQUARE) * (squares[0] * squares[1]).rsqrt()
    return _mean(1 - cosines, _of_vectors(weight))


def pearson(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Pearson's r of each channel over all samples and positions, mean over channels: PKD.

    PKD (Cao et al. 2022) standardises each channel of a map over N, H and W; half the squared
    distance of such maps is 1 - r. The sums of r go over all processes, as in synchronised batch
    norm. Gradients that are accumulated over batches differ a little from those of one batch.
    """
    dims = [0, *range(2, student.dim())]
    count = student.new_tensor(float(student[:, 0].numel())) if weight is None else weight.sum()
    share = None if weight is None else weight.to(student.dtype)
    student, teacher = _visible(student, teacher, weight)

    def sums(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(p if share is None else share * p).sum(dims) for p in parts])

    total, firsts = _joined(count.to(student.dtype), sums((student, teacher)))
    means = (firsts / total).view(2, 1, -1, *[1] * (student.dim() - 2))
    s, t = student - means[0], teacher - means[1]
    moments = sum_over_processes(sums((s * s, t * t, s * t))) / total
    return (1 - coefficient(*moments)).mean()


def _joined(total: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """A total weight and weighted sums, over all processes."""
    joined = sum_over_processes(torch.cat([total.view(1), sums.flatten()]))
    return joined[0].clamp(min=EPSILON), joined[1:].view_as(sums)


def coefficient(ss: Tensor, tt: Tensor, st: Tensor) -> Tensor:
    """Pearson's r from two variances and a covariance; 1 where all three vanish."""
    return (st + EPSILON) * ((ss + EPSILON) * (tt + EPSILON)).rsqrt()


def _moment_correlation(
    student: Tensor, teacher: Tensor, weight: Tensor | None, dim: int
) -> Tensor:
    """Pearson's r along one axis, which stays with a length of 1."""
    share = torch.ones_like(student) if weight is None else weight.to(student.dtype)
    share = share.expand_as(student)
    share = share / share.sum(dim=dim, keepdim=True).clamp(min=EPSILON)
    student, teacher = _visible(student, teacher, weight)
    s = student - (share * student).sum(dim=dim, keepdim=True)
    t = teacher - (share * teacher).sum(dim=dim, keepdim=True)
    moments = [(share * part).sum(dim=dim, keepdim=True) for part in (s * s, t * t, s * t)]
    return coefficient(*moments)


def pearson_hw(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Pearson's r of each channel over its sample's positions, mean over channels and samples.

    ``pearson`` of crops and of parts of a map. PKD's statistics over the batch have too few
    positions there: with two crops, r tells the crops apart and little else, and the gradients of
    16 images in one batch and of 8 batches of 2 have next to nothing in common.
    """
    r = _correlation_hw(student, teacher, weight)
    return _mean(1 - r, None if weight is None else weight.flatten(2).amax(dim=2))


def _correlation_hw(student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    """Pearson's r of each channel over the sample's positions: (N, C)."""
    flat = None if weight is None else weight.flatten(2)
    sides = student.flatten(2), teacher.flatten(2)
    return _moment_correlation(*sides, flat, dim=2).squeeze(2)


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


def ssim(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """(1 - SSIM) / 2, in [0, 1], of each channel map under an 11 x 11 Gaussian window (SKD)."""
    return _mean(ssim_values(student, teacher), weight)


def ssim_values(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 - SSIM) / 2 of each element, (N, C, H, W).

    A window that leaves the map is renormalised, so a map may be smaller than the window. L, the
    dynamic range, is that of the teacher's sample.
    """
    h, w = student.shape[-2:]
    low, high = teacher.detach().flatten(1).aminmax(dim=1)
    ranges = (high - low).clamp(min=SSIM_LEAST_RANGE).repeat_interleave(student.shape[1])
    s, t = student.reshape(-1, h, w), teacher.reshape(-1, h, w)
    centre_s, centre_t = s.mean(dim=(1, 2), keepdim=True), t.mean(dim=(1, 2), keepdim=True)
    s, t = s - centre_s, t - centre_t  # without large means, variances lose no digits
    mean_s, mean_t, ss, tt, st = _blur(torch.cat([s, t, s * s, t * t, s * t])).chunk(5)
    variances = (ss - mean_s**2).clamp(min=0) + (tt - mean_t**2).clamp(min=0)
    covariance = st - mean_s * mean_t
    mu_s, mu_t = mean_s + centre_s, mean_t + centre_t
    c1, c2 = ((factor * ranges).square().view(-1, 1, 1) for factor in (SSIM_K1, SSIM_K2))
    luminance = (2 * mu_s * mu_t + c1) / (mu_s**2 + mu_t**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return ((1 - luminance * structure) / 2).view_as(student)


#: Of student, teacher and, optionally, weights.
Distance = Callable[..., Tensor]

#: The distances of maps, by name.
MAP_DISTANCES: dict[str, Distance] = {
    f.__name__: f for f in (l1, l2, smooth_l1, kl, kl_hw, jensen_shannon, cosine, pearson, ssim)
}
#: The distances of crops and of parts of maps, by name.
PART_DISTANCES: dict[str, Distance] = {**MAP_DISTANCES, "pearson": pearson_hw}
