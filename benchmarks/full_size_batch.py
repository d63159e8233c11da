"""A full-size batch as a term of a distiller sees it, and the two ways to step: ours and another.

Images of 800x1333, padded to 800x1344: maps of 256 channels, P3 to P7. The heads are stock mmdet's,
with random weights; they read random maps, and one prior in a thousand is a positive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from detkds.detectors import (
    Knowledge,
    Levels,
    build_detector,
    model_config,
    places_of,
    signature,
    without_pretrained,
)
from detkds.detectors.cross_head import Branches, CrossHead
from detkds.detectors.responses import dense_responses, priors_of, reading
from detkds.distillers import BOX_DISTANCES, DistillationLoss, Observation, Pair, crossing, pieces
from detkds.distillers.response_transforms import RESPONSE_TRANSFORMS
from detkds.distillers.responses import count_positives
from detkds.space import Distiller, Term
from torch import Tensor

CONFIGS = {
    "retinanet": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "gfl": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "atss": "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "fcos": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
}
HEIGHT, WIDTH, PADDED, CHANNELS = 800, 1333, (800, 1344), 256
BOXES = 8  # an image
POSITIVES = 1e-3
RESPONSES = (
    "logits: identity, l1",
    "logits: norm_n, pearson",
    "logits: softmax_c, kl",
    "logits: min_max, cosine",
    "logits: reshape_n, kl",
    "logits: softmax_c, correlation",
    "logits: identity, jensen_shannon",
    "logits: identity, quality_focal",
    "localization: sigmoid, ciou",
    "localization: softmax_n, giou",
)
CROSS = ("cross_logits: identity, quality_focal", "cross_localization: identity, giou")
FEATURES = (
    "global: catt → scale_2 → norm_n, l1",
    "global: identity, pearson",
    "fgbg: local_4 → norm_hw, l1",
    "instance: catt → scale_1 → norm_c, smooth_l1",
)
OURS, ALTERNATIVE = "ours", "alternative"


@dataclass(frozen=True)
class Row:
    """What is measured in one process."""

    family: str
    classes: int
    images: int
    term: str
    rounds: int
    threads: int
    device: str


def random_maps(sizes: list[tuple[int, int]], images: int, device: str) -> Levels:
    return tuple(torch.randn(images, CHANNELS, h, w, device=device) for h, w in sizes)


def build(family: str, classes: int, device: str) -> Any:
    config = without_pretrained(
        model_config(CONFIGS[family], {"model.bbox_head.num_classes": classes})
    )
    model = build_detector(config)
    model.init_weights()
    return model.to(device)


@torch.no_grad()
def observed(row: Row) -> tuple[Observation, Pair]:
    """What two detectors know of a batch, as the terms of a training see it."""
    torch.manual_seed(0)
    student = build(row.family, row.classes, row.device).train()
    teacher = build(row.family, row.classes, row.device).eval()
    pair = Pair(signature(student, "student"), signature(teacher, "teacher"), teacher.bbox_head)
    sizes = [(-(-PADDED[0] // s), -(-PADDED[1] // s)) for s in pair.student.strides]
    known = []
    for model in (student, teacher):
        maps = random_maps(sizes, row.images, row.device)
        head = model.bbox_head
        logits, boxes = ((), ()) if row.term in FEATURES else dense_responses(head, head(maps))
        known.append(Knowledge(maps, logits, boxes, read=reading(head)))
    ours, theirs = known
    hidden: dict[int, Branches] = {}
    if row.term.startswith("cross_"):
        (position,) = DistillationLoss(Distiller.parse(row.term), pair).needs.positions
        first, second = CrossHead(student.bbox_head, position).before(ours.features)
        hidden = {position: (learning(first), learning(second))}
    positives = tuple(
        torch.rand(row.images, priors_of(level), device=row.device) < POSITIVES
        for level in ours.logits
    )
    leaves = Knowledge(
        learning(ours.features),
        learning(ours.logits),
        learning(ours.localization),
        positives,
        tuple(torch.ones_like(p) for p in positives),
        hidden=hidden,
        read=ours.read,
        places=places_of(positives) if positives else (),
    )
    shapes = [(HEIGHT, WIDTH)] * row.images
    return Observation(leaves, (theirs,), random_boxes(row.images, row.device), shapes=shapes), pair


def learning(levels: Levels) -> Levels:
    return tuple(level.detach().requires_grad_() for level in levels)


def random_boxes(images: int, device: str) -> list[Tensor]:
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    boxes = []
    for _ in range(images):
        sides = size * torch.empty(BOXES, 2).uniform_(1 / 16, 1 / 2)
        corner = torch.rand(BOXES, 2) * (size - sides)
        boxes.append(torch.cat([corner, corner + sides], dim=1).to(device))
    return boxes


def masked_localization(observation: Observation, term: Term) -> Tensor:
    """The localization loss of all boxes, masked afterwards: in one piece."""
    student, teacher = observation.student, observation.teacher
    transform = RESPONSE_TRANSFORMS[term.transforms[0]]
    ours, theirs = (torch.cat(side.boxes, dim=2) for side in (student, teacher))
    counted = torch.cat(student.counted, dim=1).unsqueeze(1)
    whole = pieces.Pieces((ours,), (theirs,), (counted,))
    statistics = transform.statistics(whole, counted.sum(dim=2, keepdim=True))
    ours, theirs = (
        transform.apply(side, *(s[i] for s in statistics)) for i, side in enumerate((ours, theirs))
    )
    losses = BOX_DISTANCES[term.distance](ours.transpose(1, 2), theirs.transpose(1, 2))
    positives = torch.cat(student.positives, dim=1)
    return torch.where(positives, losses, 0).sum() / count_positives(student.positives)


def ways(row: Row) -> tuple[list[Tensor], dict[str, Callable[[], None]]]:
    """The leaves, and how to step: ours and the alternative."""
    observation, pair = observed(row)
    term = Distiller.parse(row.term).terms[0]
    loss = DistillationLoss(Distiller((term,)), pair).to(row.device)
    student = observation.student
    known = (student.features, student.logits, student.localization)
    branches = [b for pair_ in student.hidden.values() for b in pair_]
    leaves = [leaf for levels in (*known, *branches) for leaf in levels]

    def ours(seen: Observation = observation) -> Tensor:
        (value,) = loss(seen).values()
        return value

    def whole() -> Tensor:
        limits = ((pieces, "PIECE"), (pieces, "IMAGES"), (crossing, "KEPT"))
        with ExitStack() as stack:
            for module, name in limits:
                stack.enter_context(patch.object(module, name, 2**62))
            if term.knowledge == "localization":
                return masked_localization(observation, term)
            return ours(replace(observation, shapes=()))

    return leaves, {OURS: partial(step, ours, leaves), ALTERNATIVE: partial(step, whole, leaves)}


def step(loss: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None
    loss().backward()
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
