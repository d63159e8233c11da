"""The composed distillation loss: every term of a distiller over one batch of knowledge."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import Knowledge, Levels, Signature, to_float32
from ..space import (
    CROSS_KNOWLEDGE,
    FEATURE_KNOWLEDGE,
    LABEL,
    RESPONSE_KNOWLEDGE,
    STEPWISE,
    Distiller,
    Term,
    WrongUse,
)
from .cross import CrossPredictions, classification
from .distances import BOX_DISTANCES, DISTANCES
from .label import LabelTeacher
from .pairing import check_pair, pair_levels
from .regions import crops, foreground
from .transforms import FEATURE_TRANSFORMS, RESPONSE_TRANSFORMS, Pair

#: "Background at half weight" (the authors' release).
BACKGROUND_WEIGHT = 0.5
#: What a ``stepwise`` weight is multiplied by at each milestone of the learning rate. SSSD changes
#: its coefficient there, to keep its effect as the rate decays; by how much is ours.
STEP = 2.0
#: Transforms that only move positions about: a mask over positions may be moved with them.
COMMUTES = {"identity", "scale_1", "local_1", "local_2", "local_4"}


class Adapter(nn.Module):
    """r(·): brings the student's maps to the teacher's channels and resolution, level by level.

    A 1x1 convolution where channels differ, nearest upsampling where the teacher's map is larger.
    """

    def __init__(self, student_channels: list[int], teacher_channels: list[int]) -> None:
        super().__init__()
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.levels = nn.ModuleList(
            nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1) for s, t in pairs
        )

    def forward(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> list[Tensor]:
        adapted = []
        for level, ours, theirs in zip(self.levels, student, teacher, strict=True):
            ours = level(ours)
            if ours.shape[-2:] != theirs.shape[-2:]:
                ours = F.interpolate(ours, size=theirs.shape[-2:], mode="nearest")
            adapted.append(ours)
        return adapted


class DistillationLoss(nn.Module):
    """Σ over terms of weight · D(T⟨student, teacher⟩), DetKDS formulas (1) to (3).

    ``teacher`` may be None for a distiller of ``label`` alone; ``teacher_head``, the dense head, is
    what CrossKD's terms go through. With DetKDS's terms it is one graph for ``torch.compile``
    (``distillation.compile()``), which takes a minute and makes it two times as fast on a CPU
    (``benchmarks/loss.py --compile``); worth it from hours of training. Raises
    :class:`WrongUse` when the pair of detectors can't share a knowledge asked for.
    """

    def __init__(
        self,
        distiller: Distiller,
        student: Signature,
        teacher: Signature | None,
        teacher_head: Any = None,
    ) -> None:
        super().__init__()
        check_pair(distiller, student, teacher)
        self.terms = distiller.active
        self.stepwise = distiller.stepwise
        #: Milestones of the learning rate that have passed; None: nobody has counted.
        self.milestones: int | None = None
        kinds = {term.knowledge for term in self.terms}
        self.needs_features = not kinds.isdisjoint(FEATURE_KNOWLEDGE)
        self.needs_responses = not kinds.isdisjoint(RESPONSE_KNOWLEDGE)
        self.needs_teacher = distiller.needs_teacher
        self.pairing = pair_levels(student, teacher or student)
        if self.needs_features:
            assert teacher is not None
            self.adapter = Adapter(
                [student.channels[i] for i in self.pairing.student_levels],
                [teacher.channels[i] for i in self.pairing.teacher_levels],
            )
        cross = [term for term in self.terms if term.knowledge in CROSS_KNOWLEDGE]
        self.positions: set[int] = set()
        if cross:
            assert teacher is not None
            assert student.layers is not None
            assert teacher.layers is not None
            self.cross = CrossPredictions(cross, student.layers, teacher.layers, teacher_head)
            self.positions = set(self.cross.positions.values())
        self._strides = student.strides
        if LABEL in kinds:
            assert student.classes is not None
            self.label_teacher = LabelTeacher(student.channels[0], student.classes)

    @property
    def needs_labels(self) -> bool:
        return hasattr(self, "label_teacher")

    def enhanced(self, student: Knowledge, boxes: list[Tensor], labels: list[Tensor]) -> Levels:
        """The label-enhanced maps of the student's, which its head is to read as well."""
        return self.label_teacher(student.features, boxes, labels, self._strides)

    def forward(
        self,
        student: Knowledge,
        teacher: Knowledge | None,
        boxes: list[Tensor],
        enhanced: Levels = (),
    ) -> dict[str, Tensor]:
        """Weighted losses by name, ``loss_<knowledge>``; each a scalar.

        ``boxes``: ground truth per image, (n, 4) as x1, y1, x2, y2 in pixels of the input.
        ``enhanced``: what :meth:`enhanced` gave, for ``label``. A ``stepwise`` term says its weight
        as ``weight_<knowledge>``. Raises :class:`WrongUse` for one if no hook counts milestones.
        """
        ours = student.select(self.pairing.student_levels)
        theirs = ours if teacher is None else teacher.select(self.pairing.teacher_levels)
        maps: list[Pair] = []
        if self.needs_features:
            adapted = self.adapter(ours.features, theirs.features)
            maps = [
                (to_float32(s), to_float32(t))
                for s, t in zip(adapted, theirs.features, strict=True)
            ]
        predictions = self.cross(student, theirs) if self.positions else None
        losses = {}
        with torch.autocast(student.features[0].device.type, enabled=False):
            for term in self.terms:
                if term.knowledge in CROSS_KNOWLEDGE:
                    loss = self.cross.distance(term, predictions, ours.positives)
                elif term.knowledge == LABEL:
                    levels = zip(student.features, enhanced, strict=True)
                    loss = _over_levels(
                        term, [(to_float32(s), to_float32(e.detach())) for s, e in levels]
                    )
                else:
                    loss = self._term(term, maps, ours, theirs, boxes)
                weight = self.weight(term)
                losses[f"loss_{term.knowledge}"] = weight * loss
                if term.schedule == STEPWISE:
                    losses[f"weight_{term.knowledge}"] = loss.new_full((), weight)
        return losses

    def weight(self, term: Term) -> float:
        """Of a ``stepwise`` term, what it is after the learning rate's last milestone."""
        if term.schedule != STEPWISE:
            return term.weight
        if self.milestones is None:
            raise WrongUse(
                f"{term.knowledge}: a stepwise weight follows the learning rate's milestones: add "
                "dict(type='DistillationHook') to custom_hooks"
            )
        return term.weight * STEP**self.milestones

    def _term(
        self,
        term: Term,
        maps: list[Pair],
        ours: Knowledge,
        theirs: Knowledge,
        boxes: list[Tensor],
    ) -> Tensor:
        if term.knowledge == "global":
            return _over_levels(term, maps)
        if term.knowledge == "fgbg":
            return self._fgbg(term, maps, boxes)
        if term.knowledge == "instance":
            return self._instance(term, maps, boxes)
        if term.knowledge == "logits":
            student, teacher = _respond(term, ours.logits, theirs.logits)
            return classification(term.distance, student, teacher, ours.positives)
        return _localization(term, ours, theirs)

    def _fgbg(self, term: Term, maps: list[Pair], boxes: list[Tensor]) -> Tensor:
        """Two distances; what a mask may come after as well as before is done once for both."""
        shared = list(takewhile(COMMUTES.__contains__, term.transforms))
        apart = term.transforms[len(shared) :]
        losses = []
        for pair, stride in zip(maps, self.pairing.strides, strict=True):
            mask = foreground(boxes, pair[1].shape[-2:], stride).to(pair[1].dtype)  # type: ignore[arg-type]
            (student, teacher), (mask, _) = (_transformed(shared, p) for p in (pair, (mask, mask)))
            inside = student * mask, teacher * mask
            outside = student - inside[0], teacher - inside[1]
            for weight, part in ((1.0, inside), (BACKGROUND_WEIGHT, outside)):
                losses.append(weight * DISTANCES[term.distance](*_transformed(apart, part)))
        return torch.stack(losses).sum()

    def _instance(self, term: Term, maps: list[Pair], boxes: list[Tensor]) -> Tensor:
        if not sum(len(image_boxes) for image_boxes in boxes):
            return torch.stack([student.sum() for student, _ in maps]).sum() * 0
        cropped = [
            (crops(student, boxes, stride), crops(teacher, boxes, stride))
            for (student, teacher), stride in zip(maps, self.pairing.strides, strict=True)
        ]
        return _over_levels(term, cropped)


def _over_levels(term: Term, pairs: list[Pair]) -> Tensor:
    """The distance after the three feature transforms, summed over levels."""
    distance = DISTANCES[term.distance]
    return torch.stack([distance(*_transformed(term.transforms, pair)) for pair in pairs]).sum()


def _transformed(names: Iterable[str], pair: Pair) -> Pair:
    for name in names:
        pair = FEATURE_TRANSFORMS[name](*pair)
    return pair


def _respond(term: Term, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Pair:
    """All levels side by side, (N, C, M), after the one response transform."""
    student, teacher = to_float32(torch.cat(ours, dim=2)), to_float32(torch.cat(theirs, dim=2))
    return RESPONSE_TRANSFORMS[term.transforms[0]](student, teacher)


def _localization(term: Term, ours: Knowledge, theirs: Knowledge) -> Tensor:
    """Mean over the student's positives; what ``identity`` leaves below 0 is read as 0."""
    student, teacher = _respond(term, ours.localization, theirs.localization)
    student, teacher = student.clamp(min=0).transpose(1, 2), teacher.clamp(min=0).transpose(1, 2)
    positives = torch.cat(ours.positives, dim=1).to(student.dtype)
    losses = BOX_DISTANCES[term.distance](student, teacher)
    return (losses * positives).sum() / positives.sum().clamp(min=1)
