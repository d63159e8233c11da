"""No step of the loss waits for the device: nothing it does depends on values, only on shapes.

Shown without a device: fake CUDA tensors have shapes and no values, and raise where one is asked
for (``.item()``, ``nonzero``, a mask as an index).
"""

from __future__ import annotations

from itertools import zip_longest

import pytest
import torch
from detkds.detectors import Knowledge, Regions, Responses, Signature
from detkds.distillers import DistillationLoss
from detkds.space import Distiller, SearchSpace, Term
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

CLASSES = 4
SPACE = SearchSpace.preset("extended")
CELLS = (16, 8)


def covering(knowledge: str) -> list[Term]:
    """Terms in which every option of one knowledge stands at least once."""
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

    shapes = [(2, n * n) for n in CELLS] if kind == "dense" else [(20, 1)]
    regions = Regions(random(20, 5), torch.ones(20, dtype=torch.long, device="cuda"))
    return Knowledge(
        tuple(random(2, channels, n, n) for n in CELLS),
        tuple(random(n, CLASSES, m) for n, m in shapes),
        tuple(random(n, 4, m) for n, m in shapes),
        tuple(torch.ones(n, m, dtype=torch.bool, device="cuda") for n, m in shapes),
        None if kind == "dense" else regions,
    )


@pytest.mark.parametrize("kind", ["dense", "region"])
@pytest.mark.parametrize("name", SPACE.knowledge)
def test_the_loss_asks_for_no_value(name: str, kind: str) -> None:
    for term in covering(name):
        with FakeTensorMode(), torch.device("cuda"):
            pair = signature("student", 8, kind), signature("teacher", 12, kind)
            module = DistillationLoss(Distiller((term,)), *pair)
            boxes = [torch.rand(3, 4), torch.zeros(0, 4)]
            found = module(knowledge_of(8, kind, True), knowledge_of(12, kind, False), boxes)
            assert found[f"loss_{name}"].is_cuda
            assert found[f"loss_{name}"].requires_grad


def test_every_option_is_covered() -> None:
    for name in SPACE.knowledge:
        columns = zip(*(SPACE.encode(term) for term in covering(name)), strict=True)
        for found, choices in zip(list(columns)[:-1], SPACE.slots(name)[:-1], strict=True):
            assert set(found) == set(choices)


def test_such_tensors_tell_who_asks() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        float(torch.rand(3, device="cuda").sum())
