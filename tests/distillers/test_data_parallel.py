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
#: MGD's masks are random, other ones in each process.
UNMASKED = [name for name in KINDS if name != "mgd"]


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one: DistributedDataParallel counts parameters as with more."""
    join = f"file://{tmp_path / 'join'}"
    torch.distributed.init_process_group("gloo", init_method=join, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def distilled(*knowledge: str) -> DistilledDetector:
    """A student under a teacher with a wider neck, so that there are adapters."""
    form = Distiller.parse("; ".join(f"{name}: {TERMS[name]}" for name in knowledge))
    two = {"model.bbox_head.stacked_convs": 2}
    teacher = thin_detector("fcos", 1, neck=24, **two)
    torch.manual_seed(2)  # of the adapters
    return DistilledDetector(still(thin_detector("fcos", 0, **two)), teacher, form)


def parallel(*knowledge: str) -> Any:
    return MMDistributedDataParallel(distilled(*knowledge), find_unused_parameters=False)


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


def gradients(model: Any, images: slice) -> dict[str, torch.Tensor]:
    """By parameter, after a step on some of four images, one of which has no boxes."""
    inputs, samples = batch(images=4)
    samples[2].gt_instances = samples[2].gt_instances[:0]
    total(model(inputs[images], samples[images], mode="loss")).backward()
    named = model.named_parameters()
    return {name.removeprefix("module."): p.grad for name, p in named if p.requires_grad}


def step(rank: int, folder: Path) -> None:
    """A step of one of two processes, on two of the images."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'join'}", rank=rank, world_size=2
    )
    found = gradients(parallel(*UNMASKED), slice(2 * rank, 2 * rank + 2))
    torch.save(found, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_all_images(tmp_path: Path) -> None:
    """The processes build student, teacher and adapters each, as mmdet's training script does."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detkds.distillers"])  # mmdet is imported once, not twice
    torch.multiprocessing.start_processes(step, (tmp_path,), nprocs=2, start_method="forkserver")
    expected = gradients(distilled(*UNMASKED), slice(None))
    assert any(name.startswith("distillation.") for name in expected)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
