"""What the tests of mmcv's operators share: ``mmcv.ops``, devices, and random numbers."""

from __future__ import annotations

import pytest
import torch
from detkds.detectors.operators import install  # makes mmcv.ops importable
from mmcv import ops
from torch import Tensor

__all__ = ["devices", "needs_stand_in", "ops", "random"]

#: For ``pytestmark``: the tests are about the stand-in for a compiled mmcv.
needs_stand_in = pytest.mark.skipif(not install(), reason="a compiled mmcv is installed")

devices = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        ),
    ],
)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
