"""The kinds of knowledge: a class for each name of the space, and one look that serves them all."""

from __future__ import annotations

import pytest
import torch
from detkds.distillers import (
    KINDS,
    DistilledDetector,
    FrozenTeacher,
    Needs,
    observe,
)
from detkds.space import KNOWLEDGE, Distiller, WrongUse
from thin_detectors import batch, still, thin_detector, total


def test_every_name_of_the_space_has_its_class() -> None:
    assert tuple(KINDS) == KNOWLEDGE


def test_needs_add_up() -> None:
    parts = [Needs(responses=True), Needs(positives=True, positions=frozenset({1})), Needs()]
    parts.append(Needs(places=True, positions=frozenset({2}), second_loss=True))
    assert Needs.of(parts) == Needs(True, True, True, frozenset({1, 2}), True)
    assert Needs.of([]) == Needs()


def test_a_look_reads_what_is_needed_and_no_more() -> None:
    student, teacher = thin_detector("retinanet").train(), thin_detector("retinanet", 1)
    calls: list[str] = []
    for name, part in (("teacher's head", teacher.bbox_head), ("student", student.backbone)):
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    frozen = FrozenTeacher(teacher, student)
    plain = observe(student, [frozen], *batch(), Needs())
    assert (plain.student.logits, plain.teacher.logits, plain.second_loss) == ((), (), None)
    assert calls == ["student"]
    whole = observe(student, [frozen], *batch(), Needs(responses=True, second_loss=True))
    assert calls == ["student", "student", "teacher's head"]
    assert len(whole.student.logits) == len(whole.teacher.logits) == 5
    assert whole.second_loss is not None
    again = whole.second_loss(whole.student.features)
    torch.testing.assert_close(total(again), total(whole.losses))
    assert calls == ["student", "student", "teacher's head"], "the second loss reads given maps"
    assert [len(boxes) for boxes in whole.boxes] == [1, 2]
    assert not any(level.requires_grad for level in whole.teacher.features)


TERMS = "global: norm_hw, l2 × 2; logits: softmax_c, l2; cross_logits: identity, quality_focal"


def test_several_teachers_at_once_are_the_mean_of_each_alone() -> None:
    teachers = [thin_detector("retinanet", seed, neck=24) for seed in (1, 2)]
    form = Distiller.parse(TERMS)

    def losses_under(teacher: object) -> dict:
        torch.manual_seed(3)  # for the adapters
        model = DistilledDetector(still(thin_detector("retinanet")), teacher, form)
        model.distillation.load_state_dict(
            {k: torch.full_like(v, 0.01) for k, v in model.distillation.state_dict().items()}
        )
        return model.loss(*batch())

    alone = [losses_under(teacher) for teacher in teachers]
    both = losses_under(teachers)
    for term in form.terms:
        name = f"loss_{term.knowledge}"
        for index, found in enumerate(alone):
            torch.testing.assert_close(both[f"{name}_{index}"], found[name] / 2)
    own = thin_detector("retinanet").train().loss(*batch()).keys()
    assert both.keys() == {*own, *(f"loss_{t.knowledge}_{i}" for t in form.terms for i in (0, 1))}
    total(both).backward()


def test_labels_count_once_under_several_teachers() -> None:
    teachers = [thin_detector("retinanet", seed) for seed in (1, 2)]
    form = Distiller.parse("global: identity, l2; label: identity, jensen_shannon × 2")
    model = DistilledDetector(thin_detector("retinanet"), teachers, form).train()
    losses = model.loss(*batch())
    assert {"loss_label", "loss_global_0", "loss_global_1"} <= losses.keys()
    assert "loss_label_0" not in losses
    torch.manual_seed(0)
    model.distillation_state()
    assert sum("label_teacher" in name for name in model.distillation_state()) == 8


def test_as_many_checkpoints_as_teachers() -> None:
    teachers = [thin_detector("retinanet", seed) for seed in (1, 2)]
    with pytest.raises(WrongUse, match=r"teacher_checkpoint: 1 checkpoints for 2 teachers"):
        DistilledDetector(
            thin_detector("retinanet"), teachers, Distiller.parse("global: identity, l2"), "one.pth"
        )


def test_teachers_are_in_no_checkpoint_and_move_along() -> None:
    teachers = [thin_detector("retinanet", seed) for seed in (1, 2)]
    model = DistilledDetector(thin_detector("retinanet"), teachers, Distiller.parse(TERMS))
    assert model.state_dict().keys() == thin_detector("retinanet").state_dict().keys()
    assert not any(p.requires_grad for teacher in teachers for p in teacher.parameters())
    model.double()
    assert {p.dtype for t in teachers for p in t.parameters()} == {torch.float64}
