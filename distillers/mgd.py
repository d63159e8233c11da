"""MGD (Yang et al., ECCV 2022): the student's masked maps generate the teacher's whole maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..detectors import to_float32
from ..space import IDENTITY, Term
from .features import Adapter, levels_in_parts, over_levels
from .kind import Kind
from .observe import Observation
from .pairing import Pair
from .transforms import TensorPair


def hidden_share(term: Term) -> float:
    """λ, the share of positions that the mask hides: 0.65 for ``hide_65``, 0 for ``identity``."""
    (name,) = term.transforms
    return 0.0 if name == IDENTITY else int(name.removeprefix("hide_")) / 100


class MaskedGeneration(nn.Module):
    """f_align, the mask and G of formulas (1) to (4), a level each: 1x1, then two 3x3 convolutions.

    G is a 3x3 convolution, a ReLU and a 3x3 convolution, as wide as the teacher's map.
    """

    def __init__(self, pair: Pair, hidden: float) -> None:
        super().__init__()
        self._pair, self._hidden = pair, hidden
        self.adapter = Adapter(pair)
        _, teacher = pair.both
        widths = [teacher.channels[i] for i in pair.levels.teacher]
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, kernel_size=3, padding=1),
            )
            for width in widths
        )

    def forward(self, observation: Observation) -> list[TensorPair]:
        """Generated and true maps (N, C, H, W) of the teacher, in float32 or wider."""
        pairs = self.adapter(observation)
        return [
            (to_float32(generator(self._masked(student))), teacher)
            for generator, (student, teacher) in zip(self.generators, pairs, strict=True)
        ]

    def _masked(self, maps: Tensor) -> Tensor:
        """The maps under one random mask an image, the same for all channels; new every time."""
        n, _, h, w = maps.shape
        return maps * (torch.rand(n, 1, h, w, device=maps.device) >= self._hidden)


class MGD(Kind):
    """``mgd``: the teacher's maps against those generated from the student's masked maps.

    The paper sums the squares, and weights the sum by 2e-5; here, as for all knowledge of maps, the
    loss is the mean over elements, summed over levels.
    """

    @classmethod
    def mismatch(cls, pair: Pair) -> str | None:
        """None: any two detectors with a neck share their maps."""
        return None

    @property
    def _part(self) -> str:
        return f"mgd_{self.term.transforms[0]}"

    def parts(self) -> Mapping[str, Callable[[], nn.Module]]:
        return {self._part: lambda: MaskedGeneration(self.pair, hidden_share(self.term))}

    def loss(self, observation: Observation, seen: Mapping[str, Any]) -> Tensor:
        pairs = seen[self._part]
        parts = levels_in_parts(pairs, observation.shapes, self.pair.levels.strides)
        return over_levels(replace(self.term, transforms=(IDENTITY,)), pairs, parts)
