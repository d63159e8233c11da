"""No step of the loss waits for the device: nothing it does depends on values, only on shapes.

The places of the positives alone do: they are found before the loss.

Shown without a device: fake CUDA tensors have shapes and no values, and raise where one is asked
for (``.item()``, ``nonzero``, a mask as an index).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
from detkds.detectors import Knowledge, Regions, Responses, Signature
from detkds.detectors import signature as detector_signature
from detkds.distillers import DistillationLoss, Observation, Pair
from detkds.space import Distiller, SearchSpace, Term
from kinds import FEATURE_KNOWLEDGE, MGD, RESPONSE_KNOWLEDGE
from thin_detectors import thin_detector
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

CLASSES = 4
SPACE = SearchSpace.preset("extended")
CELLS = (16, 8)


def covering(knowledge: str) -> list[Term]:
    """Terms that together have every option of one knowledge."""
    *slots, weights = SPACE.slots(knowledge)
    rows = zip_longest(*slots)
    return [
        SPACE.decode(knowledge, [*(v or s[0] for v, s in zip(row, slots, strict=True)), weights[0]])
        for row in rows
    ]


def signature(name: str, channels: int, kind: str) -> Signature:
    priors = (1, 1) if kind == "dense" else ()
    return Signature(
        name, (8, 16), (channels,) * 2, Responses(kind, CLASSES, priors, "sigmoid", "distances")
    )


def knowledge_of(channels: int, kind: str, learns: bool) -> Knowledge:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", requires_grad=learns)

    shapes = [(2, n * n) for n in CELLS] if kind == "dense" else [(2, 10)]
    regions = Regions(random(20, 5), torch.ones(20, dtype=torch.long, device="cuda"), (10, 10))
    ones = tuple(torch.ones(n, m, dtype=torch.bool, device="cuda") for n, m in shapes)
    # The tap finds the places of the positives where the student's assignment waits anyway.
    places = tuple(torch.ones(3, 2, dtype=torch.long, device="cuda") for _ in shapes)
    return Knowledge(
        tuple(random(2, channels, n, n) for n in CELLS),
        tuple(random(n, CLASSES, m) for n, m in shapes),
        tuple(random(n, 4, m) for n, m in shapes),
        ones,
        ones,
        None if kind == "dense" else regions,
        places=places,
    )


def loss_of(term: Term, kind: str) -> dict[str, Tensor]:
    with FakeTensorMode(), torch.device("cuda"):
        pair = signature("student", 8, kind), signature("teacher", 12, kind)
        module = DistillationLoss(Distiller((term,)), Pair(*pair))
        module.follow(lambda: 1)
        boxes = [torch.rand(3, 4), torch.zeros(0, 4)]
        known = knowledge_of(8, kind, True), (knowledge_of(12, kind, False),)
        return module(Observation(*known, boxes))


@pytest.mark.parametrize("kind", ["dense", "region"])
@pytest.mark.parametrize("name", [*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE, MGD])
def test_the_loss_asks_for_no_value(name: str, kind: str) -> None:
    for term in covering(name):
        if (term.distance, kind) == ("quality_focal", "region"):
            continue  # no such head scores by sigmoid
        found = loss_of(term, kind)
        assert found[f"loss_{name}"].is_cuda
        assert found[f"loss_{name}"].requires_grad


@pytest.mark.parametrize("family", ["retinanet", "fcos", "atss", "gfl"])
def test_a_head_continued_by_another_asks_for_no_value(family: str) -> None:
    """The student's head is left out: mmdet's assignment of targets does wait for the device."""
    box = "kl" if family == "gfl" else "giou"
    terms = Distiller.parse(
        f"cross_logits: after_1, quality_focal; cross_localization: after_0, {box}"
    )
    options = {"model.bbox_head.stacked_convs": 2}
    teacher = thin_detector(family, **options).eval()
    form = detector_signature(teacher, "a")
    module = DistillationLoss(terms, Pair(form, form, teacher.bbox_head))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for part in (module, teacher):
            part._apply(lambda tensor: mode.from_tensor(tensor).cuda())
        with torch.device("cuda"):
            maps = tuple(torch.randn(2, 16, n, n, requires_grad=True) for n in (16, 8, 4, 2, 1))
            priors = teacher.bbox_head.prior_generator.num_base_priors[0]
            positives = tuple(
                torch.ones(2, level[0, 0].numel() * priors, dtype=torch.bool) for level in maps
            )
            student = Knowledge(
                maps, positives=positives, hidden={0: (maps, maps), 1: (maps, maps)}
            )
            theirs = Knowledge(tuple(m.detach() for m in maps))
            losses = module(Observation(student, (theirs,)))
    assert all(loss.is_cuda and loss.requires_grad for loss in losses.values())


def test_the_implicit_teacher_asks_for_no_value() -> None:
    form = replace(signature("student", 8, "dense"), classes=CLASSES)
    with FakeTensorMode(), torch.device("cuda"):
        module = DistillationLoss(Distiller.parse("label: identity, jensen_shannon"), Pair(form))
        student = knowledge_of(8, "dense", True)
        boxes, labels = [torch.rand(3, 4), torch.zeros(0, 4)], [torch.ones(3), torch.ones(0)]
        observation = Observation(
            student, (), boxes, boxes, labels, second_loss=lambda maps: {"loss_cls": maps[0].sum()}
        )
        loss = module(observation)["loss_label"]
        assert loss.is_cuda
        assert loss.requires_grad


def test_every_option_is_covered() -> None:
    for name in SPACE.knowledge:
        columns = zip(*(SPACE.encode(term) for term in covering(name)), strict=True)
        for found, choices in zip(list(columns)[:-1], SPACE.slots(name)[:-1], strict=True):
            assert set(found) == set(choices)


def test_such_tensors_tell_who_asks() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        float(torch.rand(3, device="cuda").sum())
