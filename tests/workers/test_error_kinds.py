"""Errors by kind: one case a kind by hand, and AP as COCO's own program counts it."""

from __future__ import annotations

import contextlib
import io
from collections import Counter

import numpy as np
import pytest
from detkds.workers.error_kinds import (
    IGNORED,
    KINDS,
    MOST,
    RIGHT,
    Judged,
    _Pool,
    balanced_score,
    gains,
    judge,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OBJECT = [0, 0, 10, 10]
NEAR, FAR = [0, 0, 10, 4], [50, 50, 60, 60]  # IoU 0.4 and 0


def judged(found: list[tuple], truth: list[tuple]) -> Judged:
    """``found``: (box, score, label); ``truth``: (box, label) or (box, label, True) of a crowd."""
    boxes = np.array([box for box, *_ in found], dtype=float).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], dtype=float)
    labels = np.array([label for *_, label in found], dtype=int)
    objects = np.array([one[0] for one in truth], dtype=float).reshape(-1, 4)
    of = np.array([one[1] for one in truth], dtype=int)
    crowd = np.array([len(one) > 2 for one in truth], dtype=bool)
    return judge(boxes, scores, labels, objects, of, crowd)


@pytest.mark.parametrize(
    ("found", "truth", "kinds", "missed"),
    [
        ([(OBJECT, 0.9, 0)], [(OBJECT, 0)], [RIGHT], 0),
        ([(OBJECT, 0.9, 1)], [(OBJECT, 0)], ["classification"], 0),
        ([(NEAR, 0.9, 0)], [(OBJECT, 0)], ["localisation"], 0),
        ([(NEAR, 0.9, 1)], [(OBJECT, 0)], ["both"], 1),
        ([(OBJECT, 0.8, 0), (OBJECT, 0.9, 0)], [(OBJECT, 0)], [RIGHT, "duplicate"], 0),
        ([(FAR, 0.9, 0)], [(OBJECT, 0)], ["background"], 1),
        ([(FAR, 0.9, 0)], [], ["background"], 0),
        ([], [(OBJECT, 0)], [], 1),
        # Near an object of its class and on one of another: the box is the error.
        ([(NEAR, 0.9, 0)], [(OBJECT, 0), (NEAR, 1)], ["localisation"], 1),
        # A crowd takes any number of detections of its class, and is no object to miss.
        ([(NEAR, 0.9, 0), (NEAR, 0.8, 0)], [(OBJECT, 0, True)], [IGNORED, IGNORED], 0),
        ([(OBJECT, 0.9, 1)], [(OBJECT, 0, True)], ["background"], 0),
    ],
)
def test_each_kind(found, truth, kinds, missed):
    one = judged(found, truth)
    assert (list(one.kinds), one.count("missed")) == (kinds, missed)
    assert list(one.scores) == sorted(one.scores, reverse=True)


def test_of_the_detections_above_a_score_others_miss_what_they_miss():
    one = judged([(OBJECT, 0.9, 0), (FAR, 0.2, 0)], [(OBJECT, 0), (FAR, 0)])
    assert (one.count("missed"), one.above(0.5).count("missed")) == (0, 1)
    assert list(one.above(0.5).kinds) == [RIGHT]
    error = judged([(OBJECT, 0.3, 1)], [(OBJECT, 0)])
    assert (error.count("missed"), error.above(0.5).count("missed")) == (0, 1)


@pytest.mark.parametrize(
    ("found", "truth", "gained"),
    [
        ([(OBJECT, 0.9, 1)], [(OBJECT, 0)], {"classification": 1.0}),
        ([(NEAR, 0.9, 0)], [(OBJECT, 0)], {"localisation": 1.0}),
        ([(FAR, 0.9, 0), (OBJECT, 0.8, 0)], [(OBJECT, 0)], {"background": 0.5}),
        ([], [(OBJECT, 0)], {"missed": 1.0}),
        ([(OBJECT, 0.9, 0)], [(OBJECT, 0), (FAR, 0)], {"missed": 1 - 51 / 101}),
        # A better score has the object: the correction takes the worse box away, and no more.
        ([(OBJECT, 0.9, 0), (NEAR, 0.8, 0)], [(OBJECT, 0)], {}),
        ([(OBJECT, 0.9, 0), (NEAR, 0.8, 0)], [(OBJECT, 0), (FAR, 0)], {"missed": 1 - 51 / 101}),
        # Two boxes near one object: only the better becomes right, the other goes.
        ([(NEAR, 0.9, 0), (NEAR, 0.8, 0)], [(OBJECT, 0), (FAR, 0)], {"localisation": 51 / 101}),
    ],
)
def test_what_a_correction_gains(found, truth, gained):
    found_gains = gains([judged(found, truth)], classes=2)
    assert {kind: gain for kind, gain in found_gains.items() if gain} == pytest.approx(gained)


def test_the_score_from_which_on_precision_and_recall_balance():
    found = [(OBJECT, 0.9, 0), (FAR, 0.5, 0), ([70, 0, 80, 10], 0.4, 0), ([80, 80, 90, 90], 0.1, 0)]
    assert balanced_score([judged(found, [(OBJECT, 0), (FAR, 0)])]) == 0.5
    assert balanced_score([judged([(FAR, 0.9, 0)], [(OBJECT, 0)])]) == 1.0


boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
labels = st.integers(0, 2)
objects = st.tuples(boxes, labels) | st.tuples(boxes, labels, st.just(True))
found = st.tuples(boxes, labels)
images = st.lists(
    st.tuples(st.lists(found, max_size=12), st.lists(objects, max_size=5)), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(images)
def test_every_false_detection_has_one_kind_and_ap_is_cocos(drawn):
    scores = iter(np.linspace(0.99, 0.01, sum(len(found) for found, _ in drawn) + 1))
    scored = [([(box, next(scores), label) for box, label in own], truth) for own, truth in drawn]
    ours = [judged(found, truth) for found, truth in scored]
    for one, (found, truth) in zip(ours, scored, strict=True):
        counts = Counter(one.kinds)
        assert counts.keys() <= {RIGHT, IGNORED, *KINDS} - {"missed"}
        assert counts.total() == len(found) <= MOST
        objects = sum(len(entry) == 2 for entry in truth)
        assert counts[RIGHT] + int(one.free.sum()) == objects
        assert one.count("missed") <= int(one.free.sum())
        assert set(one.objects[one.kinds == RIGHT]).isdisjoint(np.flatnonzero(one.free))
    found_gains = gains(ours, classes=3)
    assert all(0 <= gain <= 1 for gain in found_gains.values())
    aps = coco_aps(scored)
    for label in range(3):
        pool = one_class(ours, label)
        if pool.positives.any():
            assert pool.mean_ap() == pytest.approx(aps[label])


def one_class(images: list[Judged], label: int) -> _Pool:
    kept = [(one.labels == label) & (one.kinds != IGNORED) for one in images]
    pairs = list(zip(images, kept, strict=True))
    return _Pool(
        np.concatenate([one.scores[own] for one, own in pairs]),
        np.concatenate([one.labels[own] * 0 for one, own in pairs]),
        np.concatenate([one.kinds[own] == RIGHT for one, own in pairs]),
        np.array([sum(int(((o.truth_labels == label) & ~o.crowd).sum()) for o in images)]),
    )


def coco_aps(images: list[tuple[list, list]]) -> list[float]:
    """AP at an IoU of 0.5 of each class by COCO's own program."""
    truth, results = [], []
    for image, (found, objects) in enumerate(images):
        for (x0, y0, x1, y1), label, *crowd in objects:
            truth.append({
                "id": len(truth) + 1, "image_id": image, "category_id": label,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(bool(crowd)),
            })  # fmt: skip
        for (x0, y0, x1, y1), score, label in found:
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    if not results:
        return [0.0] * 3
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "width": 30, "height": 30} for i in range(len(images))],
            "annotations": truth,
            "categories": [{"id": i, "name": str(i)} for i in range(3)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return [float(precision[:, k].mean()) for k in range(3)]
