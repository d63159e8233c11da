"""CrossKD (Wang et al., CVPR 2024): the student's head continued by the teacher's frozen layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import CrossHead, DensePredictions, HeadLayers, Knowledge, Levels, to_float32
from ..space import CROSS_KNOWLEDGE, Term
from .distances import BOX_DISTANCES, DISTANCES, quality_focal

EPSILON = 1e-6


def position_of(term: Term, student: HeadLayers, teacher: HeadLayers) -> int:
    """The layer i after which a term hands over.

    By default the last stacked convolution but one that both heads have: the paper's i = 3 of
    four. n, the count of both heads' layers, stands for their own predictions.
    """
    if term.position is not None:
        return term.position
    return max(min(student.count, teacher.count) - 2, 0)


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map (N, C, H, W) with the teacher's mean and deviation of each channel.

    Over N, H and W, as in the authors' release; no formula of the paper says so. Reckoned in
    float32 or wider, returned in the teacher's type, which its layers read.
    """
    own, known = to_float32(student), to_float32(teacher)
    ours, ours_mean = torch.var_mean(own, (0, 2, 3), correction=0, keepdim=True)
    theirs, theirs_mean = torch.var_mean(known, (0, 2, 3), correction=0, keepdim=True)
    scale = ((theirs + EPSILON) / (ours + EPSILON)).sqrt()
    return ((own - ours_mean) * scale + theirs_mean).to(teacher.dtype)


class CrossPredictions(nn.Module):
    """Cross-head and teacher's predictions for every position that a distiller's terms ask for.

    Between heads of unequal widths r(·), a 1x1 convolution for each branch, comes first. The
    teacher's head is no submodule: it is frozen and in no checkpoint.
    """

    def __init__(
        self, terms: list[Term], student: HeadLayers, teacher: HeadLayers, head: Any
    ) -> None:
        super().__init__()
        self.positions = {term: position_of(term, student, teacher) for term in terms}
        self._own = student.count
        inner = sorted(set(self.positions.values()) - {self._own})
        self._heads = {i: CrossHead(head, i) for i in [*inner, *([] if inner else [0])]}
        self.adapters: Any = nn.ModuleDict(
            {
                str(i): nn.ModuleList(
                    nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1) for _ in range(2)
                )
                for i in inner
                for s, t in [(student.channels[i], teacher.channels[i])]
            }
        )

    def forward(
        self, student: Knowledge, teacher: Knowledge
    ) -> tuple[dict[int, DensePredictions], DensePredictions]:
        """By position what the teacher's layers make of the student, and the teacher's own."""
        found: dict[int, DensePredictions] = {}
        own: DensePredictions | None = None
        for i, head in self._heads.items():
            with torch.no_grad():
                theirs = head.before(teacher.features)
                own = own or head.after(theirs)
            if i not in self.positions.values():
                continue
            branches = tuple(
                tuple(
                    aligned(adapter(level), known) for level, known in zip(ours, their, strict=True)
                )
                for adapter, ours, their in zip(
                    self.adapters[str(i)], student.hidden[i], theirs, strict=True
                )
            )
            found[i] = head.after(branches)  # type: ignore[arg-type]
        if student.predictions is not None:
            found[self._own] = student.predictions
        assert own is not None
        return found, own

    def distance(
        self,
        term: Term,
        predictions: tuple[dict[int, DensePredictions], DensePredictions] | None,
        positives: Levels,
    ) -> Tensor:
        """D_pred of formula (3); ``positives``: where the student's assignment has one."""
        assert predictions is not None
        cross, teacher = predictions[0][self.positions[term]], predictions[1]
        if term.knowledge == CROSS_KNOWLEDGE[0]:
            ours, theirs = (torch.cat(side.logits, dim=2) for side in (cross, teacher))
            return classification(term.distance, ours, theirs, positives)
        if term.distance == "kl":
            confidence = torch.cat(teacher.logits, dim=2).sigmoid().amax(dim=1)
            return _bins_kl(torch.cat(cross.bins, dim=2), torch.cat(teacher.bins, 2), confidence)
        ours, theirs = (torch.cat(side.sides, dim=2).transpose(1, 2) for side in (cross, teacher))
        losses = BOX_DISTANCES[term.distance](ours, theirs)
        weight = torch.cat(positives, dim=1).to(losses.dtype)
        return (losses * weight).sum() / weight.sum().clamp(min=1)


def classification(distance: str, student: Tensor, teacher: Tensor, positives: Levels) -> Tensor:
    """A distance of logits on all positions (N, K, M).

    Quality focal loss is summed and divided by the number of positives, as dense detectors train
    with it; formula (3), read to the letter, would divide by all positions, mostly background.
    """
    if distance == "quality_focal":
        count = torch.cat(positives, dim=1).to(student.dtype).sum().clamp(min=1)
        return quality_focal(student, teacher).sum() / count
    return DISTANCES[distance](student, teacher)


def _bins_kl(student: Tensor, teacher: Tensor, confidence: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the four sides' bins (N, 4·R, M), formula (6) at a temperature of 1.

    Mean over sides and positions, weighted by the teacher's highest class score (N, M).
    """
    n, _, m = student.shape
    log_q, log_p = (side.view(n, 4, -1, m).log_softmax(dim=2) for side in (student, teacher))
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=2).mean(dim=1)
    return (divergence * confidence).sum() / confidence.sum().clamp(min=EPSILON)
