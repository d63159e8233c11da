"""SSSD: a teacher made of labels, which only training has, and weights that follow the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.detectors import build_detector, signature
from detkds.distillers import DistilledDetector, available_knowledge
from detkds.distillers.label import LabelTeacher
from detkds.space import Distiller, WrongUse
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from thin_detectors import batch, thin_config, thin_detector, total
from torch import Tensor, nn
from torch.utils.data import DataLoader

LABEL = Distiller.parse("label: identity, jensen_shannon × 15")
FAMILIES = ("retinanet", "fcos", "atss", "gfl", "faster_rcnn")


def learner(family: str = "retinanet", form: Distiller = LABEL) -> DistilledDetector:
    return DistilledDetector(thin_detector(family), None, form).train()


def test_the_distance_is_the_root_of_each_levels_mean_divergence() -> None:
    """(1/N) Σ over levels of D_JS^(1/2), with the 1/N in the weight; D_JS spelled out."""
    model = learner(form=Distiller.parse("label: identity, jensen_shannon"))
    seen: list[Any] = []
    model.distillation.parts["label_teacher"].register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0].student.features, output))
    )
    found = model.loss(*batch())["loss_label"]
    roots, means_of_roots = [], []
    for level in zip(*seen[0], strict=True):
        p, q = (side.detach().double().softmax(dim=1) for side in level)
        m = (p + q) / 2
        divergence = ((p * (p / m).log() + q * (q / m).log()).sum(dim=1)) / 2
        roots.append(torch.stack([image.mean().sqrt() for image in divergence]).mean())
        means_of_roots.append(divergence.sqrt().mean())
    torch.testing.assert_close(found.double(), sum(roots), rtol=1e-3, atol=1e-6)
    assert sum(means_of_roots) < 0.98 * sum(roots)


def learned(part: Any) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_teacher_is_needed_and_the_head_reads_both(family: str) -> None:
    model = learner(family)
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses = model.loss(*batch())
    assert len(calls) == 1, "the student runs once"
    own = thin_detector(family).train().loss(*batch())
    assert losses.keys() == {*own, *(f"label_{name}" for name in own), "loss_label"}
    assert 0 < losses["loss_label"] < 15 * 5 * 0.8326
    total(losses).backward()
    assert learned(model.student.backbone)
    assert learned(model.distillation.parts["label_teacher"].encoder)
    assert learned(model.distillation.parts["label_teacher"].fusion)


def test_the_students_maps_are_drawn_to_the_enhanced_ones_and_not_they_to_its() -> None:
    model = learner()
    model.loss(*batch())["loss_label"].backward()
    assert learned(model.student.backbone)
    assert not learned(model.student.bbox_head)
    assert not learned(model.distillation.parts["label_teacher"])


def test_the_heads_loss_on_the_enhanced_maps_trains_all_that_made_them() -> None:
    model = learner()
    losses = model.loss(*batch())
    total({name: value for name, value in losses.items() if name.startswith("label_")}).backward()
    assert learned(model.student.bbox_head)
    assert learned(model.distillation.parts["label_teacher"])
    assert learned(model.student.backbone)


def test_the_heads_statistics_are_of_the_students_maps() -> None:
    """With batch normalisation in the head, as in the quickstart."""
    options = {"model.bbox_head.norm_cfg": {"type": "BN"}}
    alone, both = (thin_detector("retinanet", **options) for _ in range(2))
    alone.train().loss(*batch())
    DistilledDetector(both, None, LABEL).train().loss(*batch())
    for (name, a), (_, b) in zip(alone.named_buffers(), both.named_buffers(), strict=True):
        if "bbox_head" in name:
            assert torch.equal(a, b), name
    assert {m.momentum for m in both.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_what_the_labels_say_is_spread_over_the_objects() -> None:
    """Outside the boxes the fusion sees the student's map alone."""
    torch.manual_seed(0)
    teacher = LabelTeacher(channels=4, classes=3, strides=(8, 16)).enhanced
    maps = (torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4))
    boxes, labels = [torch.tensor([[0.0, 0, 24, 16]])], [torch.tensor([2])]
    nothing = teacher(maps, [torch.zeros(0, 4)], [torch.zeros(0)])
    found = teacher(maps, boxes, labels)
    changed = [(a - b).abs().sum(1)[0] > 1e-6 for a, b in zip(found, nothing, strict=True)]
    # rows 0 to 1 and columns 0 to 2, and one more each way for the 3x3 convolution
    assert changed[0].nonzero().tolist() == [[y, x] for y in range(3) for x in range(4)]
    assert changed[1].nonzero().tolist() == [[y, x] for y in range(2) for x in range(3)]
    other = teacher(maps, boxes, [torch.tensor([1])])
    assert not torch.equal(other[0], found[0])


def test_under_autocast() -> None:
    model = learner()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(*batch())
    assert losses["loss_label"].dtype == torch.float32
    total(losses).backward()
    assert learned(model.distillation.parts["label_teacher"])


@pytest.mark.parametrize("without", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_a_box(family: str, without: int) -> None:
    """One image of two has no box, or neither has."""
    inputs, samples = batch()
    for sample in samples[:without]:
        sample.gt_instances = sample.gt_instances[:0]
    losses = learner(family).loss(inputs, samples)
    assert bool(losses["loss_label"].isfinite())
    assert bool(total(losses).isfinite())
    total(losses).backward()


def test_its_parameters_are_trained_and_not_saved() -> None:
    model = learner()
    wrapper = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.1}})
    trained = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    implicit = list(model.distillation.parts["label_teacher"].parameters())
    assert implicit
    assert all(id(parameter) in trained for parameter in implicit)
    before = [parameter.clone() for parameter in implicit]
    wrapper.update_params(total(model.loss(*batch())))
    assert all(bool((a != b).any()) for a, b in zip(before, implicit, strict=True))
    stock = build_detector(thin_config("retinanet"))
    assert model.state_dict().keys() == stock.state_dict().keys()


def test_students_that_cannot_are_told_why() -> None:
    with pytest.raises(WrongUse, match="'global' is learned from a teacher"):
        DistilledDetector(
            thin_detector("retinanet"),
            None,
            Distiller.parse("global: identity, l1; label: mask, l1"),
        )
    assert available_knowledge(signature(thin_detector("gfl"), "student"), None) == ("label",)


STEPS = Distiller.parse("label: identity, jensen_shannon × 10 stepwise")


class Batches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


class Steps(DistilledDetector):
    """The same two images in every iteration."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        loss, told = self.parse_losses(self.loss(*batch()))
        optim_wrapper.update_params(loss)
        return told


def run(
    folder: Path, milestones: list[int], form: Distiller = STEPS, **options: Any
) -> list[float]:
    """The weight of every iteration, from the training's log."""
    torch.manual_seed(0)
    model = Steps(thin_detector("retinanet"), None, form)
    scheduler = {"type": "MultiStepLR", "milestones": milestones, "by_epoch": True}
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(Batches(), batch_size=2),
        train_cfg={"by_epoch": True, "max_epochs": 3},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4}},
        experiment_name=folder.name,
        log_level="ERROR",
        **{
            "custom_hooks": [{"type": "DistillationHook"}],
            "param_scheduler": scheduler if milestones else None,
            **options,
        },
    )
    runner.train()
    return list(runner.message_hub.get_scalar("train/weight_label").data[0])


def test_a_stepwise_weight_changes_once_at_the_first_milestone(tmp_path: Path) -> None:
    assert run(tmp_path / "once", [2]) == [10, 10, 10, 10, 20, 20]
    fourfold = Distiller.parse("label: identity, jensen_shannon × 10 stepwise × 4")
    assert run(tmp_path / "twice", [1, 2], fourfold) == [10, 10, 40, 40, 40, 40]


def test_milestones_are_those_that_the_learning_rate_meets(tmp_path: Path) -> None:
    """Milestones count from the scheduler's begin to its end; a momentum's don't count."""
    schedulers = [
        {"type": "MultiStepLR", "milestones": [1], "begin": 1, "by_epoch": True},
        {"type": "MultiStepLR", "milestones": [2], "end": 2, "by_epoch": True},
        {"type": "MultiStepMomentum", "milestones": [1], "by_epoch": True},
    ]
    assert run(tmp_path, [1], param_scheduler=schedulers) == [10, 10, 10, 10, 20, 20]


def test_a_stepwise_weight_without_milestones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="the training has none: use MultiStepLR"):
        run(tmp_path / "none", [])
    with pytest.raises(WrongUse, match="add dict\\(type='DistillationHook'\\)"):
        run(tmp_path / "unhooked", [1], custom_hooks=None)


def test_the_schedule_is_part_of_the_term() -> None:
    (term,) = STEPS.terms
    assert str(term) == "label: identity, jensen_shannon × 10 stepwise"
    assert Distiller.from_dict(STEPS.to_dict()) == STEPS
    constant = Distiller.parse("label: identity, jensen_shannon × 10")
    assert "schedule" not in constant.to_dict()["terms"][0]
    assert constant.key != STEPS.key
    fourfold = Distiller.parse("label: identity, jensen_shannon x 10 stepwise x 4")
    assert str(fourfold) == "label: identity, jensen_shannon × 10 stepwise × 4"
    assert Distiller.from_dict(fourfold.to_dict()) == fourfold
    assert fourfold.key not in (STEPS.key, constant.key)
    with pytest.raises(WrongUse, match="unknown schedule 'stepwide'"):
        Distiller.parse("label: identity, jensen_shannon × 10 stepwide")
