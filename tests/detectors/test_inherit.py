"""A student inherits the weights of its teacher's neck and head."""

from __future__ import annotations

import torch
from detkds.detectors import inherit
from detkds.distillers import DistilledDetector
from thin_detectors import ALL_TERMS, FEATURE_TERMS, batch, thin_detector, total


def test_weights_of_neck_and_head_are_copied_and_no_others() -> None:
    student, teacher = thin_detector("retinanet"), thin_detector("retinanet", seed=1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    copied = inherit(student, teacher)
    theirs = teacher.state_dict()
    assert {name.split(".")[0] for name in copied} == {"neck", "bbox_head"}
    for name, value in student.state_dict().items():
        expected = theirs[name] if name in copied else before[name]
        assert torch.equal(value, expected), name
    assert not any(name.startswith("backbone") for name in copied)


def test_a_layer_of_another_shape_keeps_all_its_weights() -> None:
    student, teacher = thin_detector("retinanet"), thin_detector("retinanet", seed=1, neck=24)
    copied = inherit(student, teacher)
    assert "bbox_head.retina_cls.weight" in copied
    assert not any(name.startswith(("neck", "bbox_head.cls_convs.0.")) for name in copied)
    fewer = thin_detector("retinanet", **{"model.bbox_head.num_classes": 7})
    copied = inherit(student, fewer)
    assert "bbox_head.retina_reg.weight" in copied
    assert not any(name.startswith("bbox_head.retina_cls") for name in copied)


def test_parts_whose_weights_have_other_names_are_not_copied() -> None:
    """The necks agree in some names and shapes, but a name belongs to different levels in them."""
    assert inherit(thin_detector("retinanet"), thin_detector("faster_rcnn", seed=1)) == []


def test_a_distilled_student_inherits_once_when_it_is_initialised() -> None:
    student, teacher = thin_detector("retinanet"), thin_detector("retinanet", seed=1)
    model = DistilledDetector(student, teacher, FEATURE_TERMS, inherit=True).train()
    model.init_weights()
    weight, theirs = student.bbox_head.retina_cls.weight, teacher.bbox_head.retina_cls.weight
    assert torch.equal(weight, theirs)
    total(model.loss(*batch())).backward()
    with torch.no_grad():
        weight -= weight.grad
    assert not torch.equal(weight, theirs), "a copy, not the teacher's own"
    model.init_weights()
    assert not torch.equal(weight, theirs)


def test_without_a_distiller_or_without_inherit_nothing_is_copied() -> None:
    student, teacher = thin_detector("retinanet"), thin_detector("retinanet", seed=1)
    before = student.bbox_head.retina_cls.weight.clone()
    DistilledDetector(student, teacher, None, inherit=True).init_weights()
    DistilledDetector(student, teacher, ALL_TERMS).init_weights()
    assert torch.equal(student.bbox_head.retina_cls.weight, before)
