"""A distilled student in torch's DistributedDataParallel, as several processes train it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.distillers import KINDS, DistilledDetector
from detkds.space import Distiller
from mmengine.model import MMDistributedDataParallel
from thin_detectors import batch, copies, still, thin_detector, total

TERMS = {
    "global": "identity, pearson",
    "fgbg": "local_2, l2",
    "instance": "catt → scale_1, l2",
    "logits": "norm_n, pearson",
    "localization": "identity, giou",
    "cross_logits": "after_1, quality_focal",
    "cross_localization": "after_1, giou",
    "label": "identity, jensen_shannon",
    "mgd": "hide_65, l2",
    "fgbg_area": "local_2, l2",
}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one: DistributedDataParallel counts parameters as with more."""
    join = f"file://{tmp_path / 'join'}"
    torch.distributed.init_process_group("gloo", init_method=join, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def parallel(*knowledge: str) -> Any:
    """A student under a teacher with a wider neck, so that there are adapters."""
    form = Distiller.parse("; ".join(f"{name}: {TERMS[name]}" for name in knowledge))
    two = {"model.bbox_head.stacked_convs": 2}
    teacher = thin_detector("fcos", 1, neck=24, **two)
    model = DistilledDetector(still(thin_detector("fcos", 0, **two)), teacher, form)
    return MMDistributedDataParallel(model, find_unused_parameters=False)


def test_no_bucket_holds_a_parameter_of_the_teacher(one_process: None) -> None:
    wrapped = parallel(*KINDS)
    model = wrapped.module
    teachers = {id(p) for p in model.teacher.parameters()}
    assert not teachers & {id(p) for p in wrapped.parameters()}
    assert not teachers & {id(p) for p in model.state_dict(keep_vars=True).values()}
    learned = [*model.student.parameters(), *model.distillation.parameters()]
    found = wrapped._get_ddp_logging_data()
    assert found["num_parameter_tensors"] == len(learned)
    assert found["total_parameter_size_bytes"] == sum(4 * p.numel() for p in learned)


@pytest.mark.parametrize("knowledge", KINDS)
def test_every_parameter_gets_a_gradient_with_boxes_and_without(
    one_process: None, knowledge: str
) -> None:
    """So ``find_unused_parameters`` is not needed: without it, an unused one would raise."""
    wrapped = parallel(knowledge)
    for boxes in (True, False, True):
        inputs, samples = copies(*batch())
        for sample in samples:
            sample.gt_instances = sample.gt_instances[: None if boxes else 0]
        total(wrapped(inputs, samples, mode="loss")).backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
