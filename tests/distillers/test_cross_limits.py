"""CrossKD at its limits: precisions, batches without a box, and pairs that can't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cross_pairs import (
    HEADS,
    both,
    cross_losses,
    detector,
    distilled,
    learned,
    padded,
)
from detkds.detectors import signature
from detkds.distillers import DistilledDetector, available_knowledge
from detkds.space import Distiller, Term, WrongUse
from thin_detectors import batch, thin_detector


@pytest.mark.parametrize("family", HEADS)
def test_under_autocast(family: str) -> None:
    model = distilled(family, both(family, 2))
    with torch.autocast("cpu", torch.bfloat16):
        losses = cross_losses(model)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert learned(model.student.backbone)
    plain = cross_losses(model)
    for name, value in losses.items():
        torch.testing.assert_close(value, plain[name], rtol=0.1, atol=0.01)


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    [
        ("retinanet", torch.float64, 1e-4),
        ("gfl", torch.float64, 1e-4),
        ("retinanet", torch.bfloat16, 0.2),
        ("fcos", torch.bfloat16, 0.2),
    ],
)
def test_in_other_precisions(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """A whole detector in one precision, without autocast; bfloat16 gives float32 losses."""
    plain = cross_losses(distilled(family, both(family, 2)))
    model = distilled(family, both(family, 2)).to(dtype)
    inputs, samples = padded()
    losses = model.loss(inputs.to(dtype), samples)
    wide = torch.promote_types(dtype, torch.float32)
    for name, value in plain.items():
        assert losses[name].dtype == wide
        torch.testing.assert_close(losses[name], value.to(wide), rtol=tolerance, atol=tolerance)
    sum(losses[name] for name in plain).backward()
    assert learned(model.student.backbone)


@pytest.mark.parametrize("family", HEADS)
def test_a_batch_without_any_box(family: str) -> None:
    """All positions are still compared; the divisor, the number of positives, counts as 1."""
    inputs, samples = batch()
    for sample in samples:
        sample.gt_instances = sample.gt_instances[:0]
    losses = distilled(family, both(family, 2)).loss(inputs, samples)
    assert 0 < losses["loss_cross_logits"] < float("inf")
    assert 0 < losses["loss_cross_localization"] < float("inf")
    (losses["loss_cross_logits"] + losses["loss_cross_localization"]).backward()


@pytest.mark.parametrize(
    ("student", "teacher", "form", "says"),
    [
        ("faster_rcnn", "faster_rcnn", "after_1, quality_focal", "student has no dense head"),
        ("retinanet", "faster_rcnn", "after_1, quality_focal", "teacher has no dense head"),
        ("retinanet", "retinanet", "after_5, quality_focal", "give after_0 to after_3"),
    ],
)
def test_a_pair_that_cannot_is_told_why(student: str, teacher: str, form: str, says: str) -> None:
    def built(family: str, seed: int) -> Any:
        return thin_detector(family, seed) if "rcnn" in family else detector(family, seed)

    with pytest.raises(WrongUse, match=says) as error:
        DistilledDetector(
            built(student, 0), built(teacher, 1), Distiller.parse(f"cross_logits: {form}")
        )
    assert "\n" not in str(error.value)


def test_other_classes_and_bins_that_are_not_there_are_refused() -> None:
    student = detector("retinanet", 0)
    other = detector("retinanet", 1, **{"model.bbox_head.num_classes": 7})
    with pytest.raises(WrongUse, match="student has 4 classes and teacher has 7"):
        DistilledDetector(student, other, Distiller.parse("cross_logits: after_1, quality_focal"))
    with pytest.raises(WrongUse, match="the heads answer none"):
        DistilledDetector(
            student, detector("retinanet", 1), Distiller.parse("cross_localization: after_1, kl")
        )


def test_bins_of_another_number_are_refused_and_boxes_are_not() -> None:
    pair = detector("gfl", 0, **{"model.bbox_head.reg_max": 8}), detector("gfl", 1)
    with pytest.raises(
        WrongUse, match=r"'kl': .* student's head answers 9 and teacher's 17 of them"
    ):
        DistilledDetector(*pair, Distiller.parse("cross_localization: after_1, kl"))
    model = DistilledDetector(*pair, Distiller.parse("cross_localization: after_1, giou"))
    assert model.loss(*batch())["loss_cross_localization"] > 0


def test_what_a_pair_has_is_listed() -> None:
    dense, region = (
        signature(detector("atss", 0), "a"),
        signature(thin_detector("faster_rcnn"), "b"),
    )
    assert set(available_knowledge(dense, dense)) >= {"cross_logits", "cross_localization", "label"}
    assert not {"cross_logits", "cross_localization"} & set(available_knowledge(region, region))


def test_the_position_is_part_of_the_term() -> None:
    term = Term.parse("cross_logits: after_3, quality_focal × 2")
    assert str(term) == "cross_logits: after_3, quality_focal × 2"
    with pytest.raises(WrongUse, match="unknown transform 'after_9'"):
        Term.parse("cross_logits: after_9, quality_focal")
