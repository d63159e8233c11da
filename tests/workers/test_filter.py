"""The distiller filter: what it rejects, what it leaves alone, and where it runs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from detkds.detectors import Knowledge
from detkds.settings import Model
from detkds.space import Distiller, SearchSpace, Status
from detkds.workers import filter as distiller_filter
from detkds.workers.filter import measure
from detkds.workers.rejection import Rejected
from detkds.workers.stored_batch import StoredBatch
from detkds.workers.trial import TrialContext, evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> TrialContext:
    return tiny.trial_context(tmp_path_factory.mktemp("filter"))


@pytest.fixture(scope="module")
def batch(context) -> StoredBatch:
    return context.batch


class Changed(StoredBatch):
    """The stored batch with other parts of its observation: ``changes`` makes them."""

    def observe(self, *arguments):
        seen = super().observe(*arguments)
        return replace(seen, **self.changes(seen))


def changed(batch, changes) -> StoredBatch:
    made = Changed(**vars(batch))
    object.__setattr__(made, "changes", changes)
    return made


def with_student(batch, function) -> StoredBatch:
    """The stored batch with a function applied to every number that the student knows."""

    def other(knowledge: Knowledge) -> Knowledge:
        return knowledge.map(lambda t: function(t) if t.is_floating_point() else t)

    return changed(batch, lambda seen: {"student": other(seen.student)})


def reason(batch, form: Distiller | str) -> str | None:
    """Why the filter rejects a distiller, or None."""
    try:
        measure(batch, Distiller.parse(form) if isinstance(form, str) else form)
    except Rejected as rejection:
        return str(rejection)
    return None


def test_the_filter_passes_a_sound_distiller(batch):
    assert reason(batch, tiny.ALL_FIVE) is None


def test_the_student_alone_passes(batch):
    assert reason(batch, Distiller(())) is None


def test_a_distiller_that_does_nothing_needs_no_filter(context):
    untried = replace(context)
    outcome = evaluate(untried, Distiller.parse("global: identity, l2 × 0"))
    assert outcome.status is Status.COMPLETED, outcome.error
    assert "batch" not in vars(untried)
    assert outcome.score == evaluate(context, None).score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("logits: softmax_c, l2 × 0.1", None),
        ("global: identity, l2 × 10", "above 100"),
    ],
)
def test_the_filter_rejects_by_size(batch, text, expected):
    said = reason(with_student(batch, lambda t: t * 1e4), text)
    assert said is None if expected is None else expected in said


@pytest.mark.parametrize("position", ["identity", "after_0", "after_1"])
def test_the_filter_tries_what_goes_through_the_teachers_head(batch, position):
    form = f"cross_logits: {position}, quality_focal; cross_localization: {position}, giou"
    assert reason(batch, form) is None


def test_the_filter_tries_what_the_labels_teach(batch):
    assert reason(batch, "label: identity, jensen_shannon × 15 stepwise") is None


def test_the_filter_sees_what_the_head_loses_on_enhanced_maps(batch):
    """The student is trained by that loss as well, and a trial ends where it is above 100."""

    def larger(seen):
        if seen.second_loss is None:
            return {}
        second = seen.second_loss
        return {
            "second_loss": lambda maps: {
                name: [1e4 * part for part in parts] for name, parts in second(maps).items()
            }
        }

    said = reason(changed(batch, larger), "label: identity, jensen_shannon × 1")
    assert said.startswith("label_loss_cls is ")
    assert said.endswith("above 100")
    assert reason(changed(batch, larger), tiny.ALL_FIVE) is None


def test_the_filter_asks_the_distance_itself_for_a_gradient(batch):
    """The head's loss on enhanced maps has a gradient even where the distance has none."""
    assert reason(batch, "label: identity, l2 × 1e-46") == "zero gradient"


def test_the_filter_rejects_nan_and_zero_gradients(batch):
    form = "logits: identity, l1 × 1"
    assert "NaN" in reason(with_student(batch, lambda t: t * float("nan")), form)
    empty = changed(batch, lambda seen: {"boxes": [boxes[:0] for boxes in seen.boxes]})
    assert reason(empty, "instance: identity, l1 × 1") == "zero gradient"


def test_most_of_the_space_survives_on_a_real_batch(batch):
    space, rng = SearchSpace.preset(), random.Random(0)
    reasons = [
        reason(batch, Distiller((space.random(knowledge, rng),)))
        for knowledge in space.knowledge
        for _ in range(8)
    ]
    assert sum(one is None for one in reasons) > 20
    assert not [one for one in reasons if one and "shape error" in one]


def test_the_filter_sees_boxes_where_the_student_does(context):
    """Boxes are in pixels of the student's smaller images where the labels are encoded."""
    sizes = {"image_size": (32, 32), "teacher_image_size": (64, 64)}
    data = context.task.data.model_copy(update=sizes)
    batch = replace(context, task=context.task.model_copy(update={"data": data})).batch
    seen: list = []
    looked = changed(batch, lambda observed: seen.append(observed) or {})
    assert reason(looked, "label: identity, jensen_shannon × 1") is None
    for own, whole in zip(seen[0].student_boxes, seen[0].boxes, strict=True):
        torch.testing.assert_close(own, whole / 2)


def test_the_filter_runs_a_head_that_asks_for_the_epoch(context):
    tood = Model(
        config="mmdet::tood/tood_r50_fpn_1x_coco.py",
        cfg_options={"model.backbone.init_cfg": None, "model.bbox_head.num_classes": 4},
    )
    batch = replace(context, task=context.task.model_copy(update={"student": tood})).batch
    assert reason(batch, "global: identity, l2 × 1") is None


# What the filter leaves alone


def drawn() -> list:
    """The next random numbers of a trial."""
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]


def test_the_filter_leaves_random_states_alone_and_depends_on_none(context):
    for build in (lambda: replace(context).batch, lambda: context.batch):
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        expected = drawn()
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        reason(build(), "mgd: hide_65, l2 × 1; global: mask, l1 × 1")
        assert drawn() == expected
    torch.manual_seed(8)
    one, other = context.batch, replace(context).batch
    for ours, theirs in zip(one.maps, other.maps, strict=True):
        assert torch.equal(ours, theirs)


def test_a_score_is_the_same_with_and_without_the_filter(context):
    """To the last bit of all metrics, the batch just made or made long ago."""
    form = Distiller.parse("global: mask, l1 × 1; mgd: hide_65, l2 × 0.5; logits: identity, l2 × 1")
    bare = evaluate(replace(context, filtered=False), form)
    assert bare.status is Status.COMPLETED, bare.error
    fresh = replace(context)
    for _ in range(2):
        filtered = evaluate(fresh, form)
        assert filtered.score == bare.score
        assert bare.metrics.items() <= filtered.metrics.items()
    assert "batch" in vars(fresh)
    unfiltered = tiny.weights_after(replace(context, filtered=False), form)
    assert torch.equal(tiny.weights_after(fresh, form), unfiltered)


# Where the filter runs


def test_the_filters_rejection_is_the_trials(context, monkeypatch):
    monkeypatch.setattr("detkds.workers.rejection.MAX_LOSS", 1e-3)
    outcome = evaluate(context, tiny.ALL_FIVE)
    assert outcome.status is Status.REJECTED
    assert outcome.reason.endswith("above 0.001")
    assert outcome.seconds > 0
    assert outcome.device == "cpu"


def raising(error: Exception):
    def forward(*arguments):
        raise error

    return forward


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ZeroDivisionError("no answer"),
    ],
)
def test_an_error_of_the_device_or_of_the_filter_fails_the_candidate(context, monkeypatch, error):
    monkeypatch.setattr(distiller_filter.DistillationLoss, "forward", raising(error))
    outcome = evaluate(context, tiny.ALL_FIVE)
    assert (outcome.status, outcome.reason) == (Status.FAILED, None)
    assert str(error) in outcome.error


def test_memory_that_a_real_allocation_lacks_is_no_shape_error(context, monkeypatch):
    monkeypatch.setattr(
        distiller_filter.DistillationLoss,
        "forward",
        lambda *_: torch.empty(2**60, dtype=torch.uint8),
    )
    outcome = evaluate(context, tiny.ALL_FIVE)
    assert outcome.status is Status.FAILED
    assert "allocate" in outcome.error


def test_a_shape_error_rejects(context, monkeypatch):
    monkeypatch.setattr(
        distiller_filter.DistillationLoss, "forward", lambda *_: torch.zeros(2) + torch.zeros(3)
    )
    outcome = evaluate(context, tiny.ALL_FIVE)
    assert outcome.status is Status.REJECTED
    assert outcome.reason.startswith("shape error: The size of tensor a (2) must match")
