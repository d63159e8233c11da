"""Which levels and responses of a pair are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from detkds.detectors import Responses, Signature
from detkds.distillers import available_knowledge, check_pair, mismatch, pair_levels
from detkds.space import KNOWLEDGE, Distiller, WrongUse
from kinds import FEATURE_KNOWLEDGE, MGD, RESPONSE_KNOWLEDGE

DENSE = Responses("dense", 4, (9,) * 4, "sigmoid", "deltas to anchors")
ONE_STAGE = Signature("student", (8, 16, 32, 64), (16,) * 4, DENSE)
FINER = Signature("teacher", (4, 8, 16, 32, 64), (24,) * 5, replace(DENSE, priors=(3, 9, 9, 9, 9)))
REGIONS = Responses("region", 4, (), "softmax with background", "deltas")
TWO_STAGE = replace(FINER, responses=REGIONS)


def other(**responses: object) -> Signature:
    """The teacher with other responses."""
    return replace(FINER, responses=replace(FINER.responses, **responses))


def test_levels_are_paired_by_stride() -> None:
    pairing = pair_levels(ONE_STAGE, FINER)
    assert pairing.strides == (8, 16, 32, 64)
    assert pairing.student == (0, 1, 2, 3)
    assert pairing.teacher == (1, 2, 3, 4)
    assert pair_levels(FINER, ONE_STAGE).student == (1, 2, 3, 4)


def test_levels_without_a_common_stride_are_refused() -> None:
    odd = replace(FINER, strides=(5, 10, 20, 40, 80))
    with pytest.raises(WrongUse, match=r"student has levels of stride \[8.*teacher of \[5"):
        pair_levels(ONE_STAGE, odd)


WRONG = {
    "classes": (other(classes=80), "student has 4 classes and teacher has 80"),
    "scores": (other(scores="softmax"), "student scores by sigmoid and teacher by softmax"),
    "priors": (other(priors=(1,) * 5), "has [9, 9, 9, 9] priors a position and teacher"),
    "priors of one level": (other(priors=(9, 9, 9, 9, 1)), "has [9, 9, 9, 1]"),
    "regions": (TWO_STAGE, "student answers at every position and teacher for regions"),
    "unread": (replace(FINER, responses=None), "teacher has no head whose responses"),
}


@pytest.mark.parametrize("knowledge", ["logits: norm_n, pearson", "localization: sigmoid, ciou"])
@pytest.mark.parametrize("case", WRONG)
def test_responses_that_do_not_line_up_are_refused(case: str, knowledge: str) -> None:
    teacher, message = WRONG[case]
    distiller = Distiller.parse(f"global: identity, l1; {knowledge}")
    with pytest.raises(WrongUse) as caught:
        check_pair(distiller, ONE_STAGE, teacher)
    assert message in str(caught.value)
    assert knowledge.split(":")[0] in str(caught.value)
    assert "use global, fgbg, instance" in str(caught.value)


@pytest.mark.parametrize("case", WRONG)
def test_such_a_pair_still_shares_its_features(case: str) -> None:
    teacher, message = WRONG[case]
    check_pair(Distiller.parse("global: identity, l1"), ONE_STAGE, teacher)
    check_pair(Distiller.parse("fgbg: mask, l1; logits: norm_n, l1 × 0"), ONE_STAGE, teacher)
    assert set(available_knowledge(ONE_STAGE, teacher)) == {*FEATURE_KNOWLEDGE, MGD}
    assert message in (mismatch("logits", ONE_STAGE, teacher) or "")


def test_a_student_alone_that_cannot_learn_from_labels_is_told_to_take_a_teacher() -> None:
    student = replace(ONE_STAGE, classes=4, encoded=True)
    with pytest.raises(WrongUse) as caught:
        check_pair(Distiller.parse("label: identity, jensen_shannon"), student, None)
    assert str(caught.value) == (
        "student has no knowledge 'label': student's head reads its encoder's memory, not the "
        "neck's maps; give `teacher`"
    )


def test_boxes_of_another_kind_leave_the_logits() -> None:
    teacher = other(boxes="distances")
    assert set(available_knowledge(ONE_STAGE, teacher)) == {*FEATURE_KNOWLEDGE, "logits", MGD}
    with pytest.raises(WrongUse, match="student regresses deltas to anchors and teacher distances"):
        check_pair(Distiller.parse("localization: sigmoid, ciou"), ONE_STAGE, teacher)


def test_regions_line_up_whatever_their_levels() -> None:
    student = replace(TWO_STAGE, name="student", strides=(4, 8), channels=(16,) * 2)
    shared = {*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE, MGD}
    assert set(available_knowledge(student, TWO_STAGE)) == shared


def test_a_pair_that_lines_up_shares_all() -> None:
    """The teacher's level of stride 4 has other priors; the student has no level of stride 4."""
    assert mismatch("logits", ONE_STAGE, FINER) is None
    shared = {*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE, MGD}
    assert set(available_knowledge(ONE_STAGE, FINER)) == shared
    every = "; ".join(f"{kind}: identity, l1" for kind in KNOWLEDGE[:4])
    check_pair(Distiller.parse(f"{every}; localization: pow2, iou"), ONE_STAGE, FINER)
