"""The transforms of DetKDS Table 2. A transform is applied alike to student and teacher.

A feature transform takes maps (N, C, H, W) of N samples (images, crops, patches). The
transforms of responses are in ``response_transforms``.

No transform looks from one sample at another. So 16 images in one batch, 8 batches of 2 whose
gradients are accumulated, and 8 processes with 2 images each all give the same loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

#: The student's and the teacher's tensor.
TensorPair = tuple[Tensor, Tensor]

#: Attention temperature τ of formula (9), as in the authors' release.
TEMPERATURE = 0.5
#: λ of formula (10): positions whose random number is below λ are hidden. The paper gives no
#: value; the authors' release uses 0.65.
MASK_THRESHOLD = 0.65
EPSILON = 1e-6


def _identity(x: Tensor) -> Tensor:
    return x


def channel_attention(f: Tensor) -> Tensor:
    """``catt``, formulas (4) and (9): C · softmax_C(mean_HW |f| / τ) times f.

    Formula (4) prints the factor HW, formula (9) C. With C, used here, the mean factor is 1.
    """
    n, c, h, w = f.shape
    strength = torch.linalg.vector_norm(f, ord=1, dim=(2, 3)) / (h * w)
    attention = c * (strength / TEMPERATURE).softmax(dim=1)
    return f * attention.view(n, c, 1, 1)


def spatial_attention(f: Tensor) -> Tensor:
    """``satt``, formulas (4) and (9) over positions: HW · softmax_HW(mean_C |f| / τ) times f."""
    n, c, h, w = f.shape
    strength = torch.linalg.vector_norm(f, ord=1, dim=1) / c
    attention = h * w * (strength.flatten(1) / TEMPERATURE).softmax(dim=1)
    return f * attention.view(n, 1, h, w)


def mask(student: Tensor, teacher: Tensor) -> TensorPair:
    """``mask``, formula (10): hide random positions, the same positions of both.

    The formula's ⟨f_S, f_T⟩ says one mask for the pair; the authors' release draws two masks.
    """
    n, _, h, w = student.shape
    keep = torch.rand(n, 1, h, w, device=student.device) >= MASK_THRESHOLD
    return student * keep, teacher * keep


def scale(f: Tensor, n: int) -> Tensor:
    """``scale_n``, formula (5): max pooling by n; a partial window at the border counts."""
    return F.max_pool2d(f, n, ceil_mode=True)


def local(f: Tensor, n: int) -> Tensor:
    """``local_n``, formula (5): n x n patches become samples, (n² N, C, ⌈H/n⌉, ⌈W/n⌉).

    Zeros at the bottom and right pad a size that n does not divide.
    """
    batch, c, h, w = f.shape
    ph, pw = math.ceil(h / n), math.ceil(w / n)
    f = F.pad(f, (0, pw * n - w, 0, ph * n - h))
    patches = f.view(batch, c, n, ph, n, pw).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch * n * n, c, ph, pw)


def normalise(f: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``norm_hw``, ``norm_c``, formula (6): (f - μ) / σ, μ and σ (of the population) over axes."""
    if dims == tuple(range(f.dim() - len(dims), f.dim())):
        return F.layer_norm(f, f.shape[-len(dims) :], eps=EPSILON)  # one pass instead of three
    centred = f - f.mean(dim=dims, keepdim=True)
    return centred * (centred.square().mean(dim=dims, keepdim=True) + EPSILON).rsqrt()


def norm_n(f: Tensor) -> Tensor:
    """``norm_n`` of maps: (f - μ) / σ with μ and σ of the sample's C, H and W.

    Formula (6) names the axis N. Over two images its result is the sign of their difference: few
    elements get most of the gradient, and 16 images in one batch mean another loss than 8 batches
    of 2. The same holds for μ and σ of a channel over N, H and W where a level has few cells, and
    the L2 norm over N of the authors' release depends on the batch too. Here each of the N samples
    is normalised as a whole.
    """
    return normalise(f, (1, 2, 3))


def min_max(f: Tensor) -> Tensor:
    """``min_max`` of maps: each sample is moved and scaled into [0, 1]."""
    low, high = f.amin(dim=(1, 2, 3), keepdim=True), f.amax(dim=(1, 2, 3), keepdim=True)
    return (f - low) / (high - low + EPSILON)


def _alike(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], TensorPair]:
    return lambda student, teacher: (function(student), function(teacher))


FEATURE_TRANSFORMS: dict[str, Callable[[Tensor, Tensor], TensorPair]] = {
    "identity": _alike(_identity),
    "catt": _alike(channel_attention),
    "satt": _alike(spatial_attention),
    "mask": mask,
    **{f"scale_{n}": _alike(partial(scale, n=n)) for n in (2, 4)},
    **{f"local_{n}": _alike(partial(local, n=n)) for n in (2, 4)},
    "norm_hw": _alike(lambda f: normalise(f, (2, 3))),
    "norm_c": _alike(lambda f: normalise(f, (1,))),
    "norm_n": _alike(norm_n),
    "min_max": _alike(min_max),
}
