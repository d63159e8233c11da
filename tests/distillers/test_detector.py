"""``DistilledDetector`` with thin real detectors: who runs, who learns and who is left alone."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from detkds.detectors import signature
from detkds.distillers import DistillationLoss, DistilledDetector, Pair, observe
from detkds.space import Distiller, WrongUse
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from thin_detectors import (
    ALL_TERMS,
    CLASSES,
    FEATURE_TERMS,
    ONE_STAGE,
    batch,
    still,
    thin_config,
    thin_detector,
    total,
)
from torch import Tensor, nn

WITHOUT = dict.fromkeys([term.knowledge for term in ALL_TERMS.terms], 0.0)
TERM_LOSSES = {f"loss_{term.knowledge}" for term in ALL_TERMS.terms}


def distilled(
    family: str = "retinanet", distiller: Distiller | None = ALL_TERMS, **teacher: Any
) -> DistilledDetector:
    """A training student whose teacher is of the same family with other weights."""
    pair = thin_detector(family), thin_detector(family, seed=1, **teacher)
    return DistilledDetector(*pair, distiller).train()


def count_forwards(model: Any, *parts: str) -> Counter[str]:
    """Counts, from now on, how often each named part of a detector runs."""
    counts: Counter[str] = Counter(dict.fromkeys(parts, 0))
    for part in parts:
        module = model.get_submodule(part)
        module.register_forward_hook(lambda *_, part=part: counts.update([part]))
    return counts


@pytest.mark.parametrize("family", ONE_STAGE)
def test_all_five_terms_train_the_student_and_only_it(family: str) -> None:
    model = distilled(family)
    teacher = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    losses = model.loss(*batch())
    assert losses.keys() > TERM_LOSSES
    assert all(torch.isfinite(losses[name]) for name in TERM_LOSSES)
    assert all(losses[name] > 0 for name in TERM_LOSSES)
    sum(losses[name] for name in TERM_LOSSES).backward()
    learns = {
        name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()
    }
    weights = {name for name, _ in model.student.named_parameters() if name.endswith("weight")}
    assert learns >= {name for name in weights if name.startswith("neck.")}
    assert learns >= {name for name in weights if name.endswith(("_cls.weight", "_reg.weight"))}
    assert "backbone.conv1.weight" in learns
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(not parameter.requires_grad for parameter in model.teacher.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, teacher[name]), "batch statistics included"


@pytest.mark.parametrize("family", ONE_STAGE)
def test_a_student_that_knows_what_its_teacher_knows_has_no_loss(family: str) -> None:
    student = thin_detector(family)
    model = DistilledDetector(student, copy.deepcopy(student), ALL_TERMS)
    still(student)
    losses = model.loss(*batch())
    for name in TERM_LOSSES:
        assert losses[name].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("teacher", ["retinanet", "faster_rcnn"])
def test_a_two_stage_student_learns_features(teacher: str) -> None:
    student = thin_detector("faster_rcnn")
    model = DistilledDetector(student, thin_detector(teacher, seed=1, neck=24), FEATURE_TERMS)
    losses = model.train().loss(*batch())
    names = {f"loss_{term.knowledge}" for term in FEATURE_TERMS.terms}
    assert losses.keys() > names
    assert all(torch.isfinite(losses[name]) for name in names)
    sum(losses[name] for name in names).backward()
    assert student.backbone.conv1.weight.grad.abs().max() > 0
    assert student.roi_head.bbox_head.fc_cls.weight.grad is None
    adapters = model.distillation.parts["adapter"].parameters()
    assert all(p.grad.abs().max() > 0 for p in adapters)


@pytest.mark.parametrize("family", ["retinanet", "faster_rcnn"])
def test_a_student_may_see_smaller_images_than_its_teacher(family: str) -> None:
    """The student's own losses are of the shrunk image; the maps compare at the teacher's size."""
    student, teacher = thin_detector(family), thin_detector(family, seed=1)
    model = DistilledDetector(still(student), teacher, FEATURE_TERMS, student_scale=0.5)
    inputs, samples = batch(128)
    small = nn.functional.interpolate(inputs, (64, 64), mode="bilinear")
    _, expected_samples = batch(128)
    for sample in expected_samples:
        sample.set_metainfo(
            dict.fromkeys(("img_shape", "batch_input_shape", "pad_shape"), (64, 64))
        )
        sample.gt_instances.bboxes = sample.gt_instances.bboxes / 2
    runs = []
    for run in (lambda: model.loss(inputs, samples), lambda: student.loss(small, expected_samples)):
        torch.manual_seed(0)
        np.random.seed(0)
        runs.append(run())
    found, expected = runs
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert all(torch.isfinite(found[f"loss_{t.knowledge}"]) for t in FEATURE_TERMS.terms)
    assert samples[0].img_shape == (128, 128), "the batch is left as it was"
    with pytest.raises(WrongUse, match="student sees images of another size"):
        DistilledDetector(student, teacher, ALL_TERMS, student_scale=0.5)


def test_a_two_stage_student_learns_responses_of_a_two_stage_teacher() -> None:
    student = thin_detector("faster_rcnn")
    model = DistilledDetector(student, thin_detector("faster_rcnn", seed=1, neck=24), ALL_TERMS)
    losses = model.train().loss(*batch())
    (losses["loss_logits"] + losses["loss_localization"]).backward()
    head = student.roi_head.bbox_head
    assert head.fc_cls.weight.grad.abs().max() > 0
    # a class has four channels of its own: only the channels of the boxes' classes have a gradient
    touched = head.fc_reg.weight.grad.view(CLASSES, -1).abs().sum(dim=1) > 0
    assert touched.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("distiller", "heads"), [(ALL_TERMS, 5), (FEATURE_TERMS, 0)], ids=["all", "features"]
)
def test_one_forward_each_and_no_more_of_the_teacher_than_asked_for(
    distiller: Distiller, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = distilled(distiller=distiller)
    parts = ("backbone", "neck", "bbox_head", "bbox_head.retina_cls")
    student, teacher = (count_forwards(m, *parts) for m in (model.student, model.teacher))

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the teacher's targets and loss are nobody's business")

    for name in ("loss", "loss_by_feat", "get_targets"):
        monkeypatch.setattr(model.teacher.bbox_head, name, never)
    for calls in (1, 2):
        model.loss(*batch())
        runs = {"backbone": calls, "neck": calls, "bbox_head": calls}
        assert student == {**runs, "bbox_head.retina_cls": 5 * calls}
        runs["bbox_head"] = calls if heads else 0
        assert teacher == {**runs, "bbox_head.retina_cls": heads * calls}


@pytest.mark.parametrize("family", [*ONE_STAGE, "faster_rcnn"])
def test_the_students_own_losses_are_what_they_are_without_a_distiller(family: str) -> None:
    found = []
    for form in (None, ALL_TERMS):
        model = distilled(family, form)
        np.random.seed(0)
        torch.manual_seed(0)
        losses = model.loss(*batch())
        found.append({name: v for name, v in losses.items() if name not in TERM_LOSSES})
    plain = thin_detector(family).train()
    np.random.seed(0)
    torch.manual_seed(0)
    expected = plain.loss(*batch())
    for losses in found:
        assert losses.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("distiller", [Distiller(()), ALL_TERMS.with_weights(WITHOUT)])
def test_a_distiller_without_an_active_term_is_the_student_alone(distiller: Distiller) -> None:
    model, alone = distilled(distiller=distiller), distilled(distiller=None)
    assert model.teacher is None
    ours, own = model.loss(*batch()), alone.loss(*batch())
    assert ours.keys() == own.keys()
    assert total(ours) == total(own)
    dense, two_stage = thin_detector("retinanet"), thin_detector("faster_rcnn")
    assert DistilledDetector(dense, two_stage, distiller, inherit=True).train().loss(*batch())


def test_the_loss_of_no_term_adds_nothing() -> None:
    student = thin_detector("retinanet")
    pair = Pair(signature(student, "student"))
    loss = DistillationLoss(Distiller(()), pair)
    observed = observe(student, [], *batch(), loss.needs)
    assert loss(observed) == {}


def test_predictions_and_features_are_the_students_own() -> None:
    model = distilled().eval()
    plain = thin_detector("retinanet").eval()
    inputs, samples = batch()
    with torch.no_grad():
        (found, _), (expected, _) = (m.predict(*batch()) for m in (model, plain))
        assert torch.equal(found.pred_instances.scores, expected.pred_instances.scores)
        assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)
        pairs = zip(model.extract_feat(inputs), plain.extract_feat(inputs), strict=True)
        assert all(torch.equal(ours, own) for ours, own in pairs)
        outputs = zip(model(inputs, samples), plain(inputs, samples), strict=True)
        assert all(
            torch.equal(a, b) for ours, own in outputs for a, b in zip(ours, own, strict=True)
        )


def test_the_teacher_is_in_no_list_of_the_model() -> None:
    model = distilled(neck=24)
    theirs = {id(p) for p in (*model.teacher.parameters(), *model.teacher.buffers())}
    assert not theirs & {id(p) for p in (*model.parameters(), *model.buffers())}
    assert not {id(m) for m in model.teacher.modules()} & {id(m) for m in model.modules()}
    wrapper = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.1}})
    trained = {id(p) for group in wrapper.param_groups for p in group["params"]}
    adapters = list(model.distillation.parameters())
    assert len(adapters) == 2 * 5
    assert trained == {id(p) for p in (*model.student.parameters(), *adapters)}


def test_the_teacher_stays_in_evaluation() -> None:
    model = distilled()
    model.eval().train()
    assert model.student.training
    assert not any(module.training for module in model.teacher.modules())


def test_the_teacher_moves_with_the_student() -> None:
    model = distilled(neck=24).to(torch.float64)
    tensors = [*model.teacher.parameters(), *model.parameters(), *model.teacher.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
    inputs, samples = batch()
    for sample in samples:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    losses = model.loss(inputs.double(), samples)
    assert all(losses[name].dtype == torch.float64 for name in TERM_LOSSES)


def test_under_autocast_the_losses_are_finite() -> None:
    model = distilled(neck=24)
    with torch.autocast("cpu", torch.bfloat16):
        # torch 2.14's own stride-2 convolution of a single pixel has no finite gradient there.
        losses = model.loss(*batch(size=128))
    assert all(losses[name].dtype == torch.float32 for name in TERM_LOSSES)
    total(losses).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_images_without_objects_give_finite_losses() -> None:
    for family in ("retinanet", "fcos"):
        model = distilled(family)
        inputs, samples = batch()
        for sample in samples:
            sample.gt_instances = sample.gt_instances[:0]
        losses = model.loss(inputs, samples)
        assert losses["loss_instance"].item() == losses["loss_localization"].item() == 0
        total(losses).backward()
        assert model.student.backbone.conv1.weight.grad.isfinite().all()


RGB = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "bgr_to_rgb": True}
BGR = {"mean": [103.0, 115.9, 122.8], "std": [1.0, 1.0, 1.0], "bgr_to_rgb": False}
PLAIN = {"bgr_to_rgb": False}


def preprocessed(model: Any, images: list[Tensor]) -> Tensor:
    _, samples = batch()
    return model.data_preprocessor({"inputs": images, "data_samples": samples})["inputs"]


@pytest.mark.parametrize("ours", [RGB, BGR, PLAIN], ids=["rgb", "bgr", "plain"])
@pytest.mark.parametrize("theirs", [RGB, BGR, PLAIN], ids=["rgb", "bgr", "plain"])
def test_a_teacher_of_other_pixels_sees_the_same_image(ours: dict, theirs: dict) -> None:
    student, teacher = (thin_detector("retinanet", seed) for seed in (0, 1))
    for model, options in ((student, ours), (teacher, theirs)):
        preprocessor = {"type": "DetDataPreprocessor", "pad_size_divisor": 32, **options}
        model.data_preprocessor = MODELS.build(preprocessor)
    model = DistilledDetector(student, teacher, FEATURE_TERMS)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    seen: list[Tensor] = []
    teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.loss(preprocessed(model, images), batch()[1])
    torch.testing.assert_close(seen[0], preprocessed(teacher, images), atol=1e-3, rtol=1e-4)


def test_a_plain_config_is_enough() -> None:
    teacher, student = thin_config("fcos", neck=24), thin_config("fcos")
    document = {**ALL_TERMS.to_dict(), "name": "from a config"}
    config = {"student": student.to_dict(), "teacher": teacher.to_dict(), "distiller": document}
    model = MODELS.build({"type": "DistilledDetector", **config}).train()
    assert isinstance(model, DistilledDetector)
    assert isinstance(model.student, nn.Module)
    assert model.loss(*batch()).keys() > TERM_LOSSES
    alone = MODELS.build({"type": "DistilledDetector", "student": student.to_dict()})
    assert not TERM_LOSSES & alone.loss(*batch()).keys()


def test_pairs_that_can_not_share_are_refused_at_once() -> None:
    retinanet = thin_detector("retinanet")
    with pytest.raises(WrongUse, match="'global' is learned from a teacher: give `teacher`"):
        DistilledDetector(retinanet, None, ALL_TERMS)
    with pytest.raises(WrongUse, match=r"student has \[9, .* and teacher has \[1, "):
        DistilledDetector(retinanet, thin_detector("atss"), ALL_TERMS)
    with pytest.raises(WrongUse, match="student answers at every position and teacher for regions"):
        DistilledDetector(retinanet, thin_detector("faster_rcnn"), ALL_TERMS)
    other = thin_detector("retinanet", **{"model.bbox_head.num_classes": 7})
    with pytest.raises(WrongUse, match="student has 4 classes and teacher has 7"):
        DistilledDetector(retinanet, other, ALL_TERMS)
    DistilledDetector(retinanet, other, FEATURE_TERMS).train().loss(*batch())
