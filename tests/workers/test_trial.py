"""A trial run by hand, without Ray and without a database."""

from __future__ import annotations

import json
import math
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from detkds.detectors import TeacherMemory, teacher_knowledge
from detkds.settings import Split
from detkds.space import Candidate, Distiller, Outcome, Status
from detkds.workers import progress, rejection, trial
from detkds.workers.progress import read
from detkds.workers.trial import TrialContext, evaluate


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> TrialContext:
    return tiny.trial_context(tmp_path_factory.mktemp("trial"))


def test_the_same_seed_gives_the_same_score_to_the_last_digit(context):
    first, second = evaluate(context, tiny.ALL_FIVE), evaluate(context, tiny.ALL_FIVE)
    assert first.status is Status.COMPLETED, first.error
    assert first.score == second.score
    assert first.metrics == second.metrics
    assert {"bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s"} <= first.metrics.keys()


def test_the_same_seed_gives_the_same_weights_and_the_distiller_changes_them(context):
    alone = tiny.weights_after(context, None)
    distilled = tiny.weights_after(context, tiny.ALL_FIVE)
    assert torch.equal(alone, tiny.weights_after(context, None))
    assert torch.equal(distilled, tiny.weights_after(context, tiny.ALL_FIVE))
    assert not torch.equal(alone, distilled)


def test_the_student_alone_is_a_candidate(context):
    none = Candidate(0, "start", Distiller(()))
    assert evaluate(context, none).metrics == evaluate(context, None).metrics
    assert torch.equal(tiny.weights_after(context, none), tiny.weights_after(context, None))


def all_five(early_bar: float | None) -> Candidate:
    return Candidate(0, "weights", tiny.ALL_FIVE, early_bar)


def test_a_check_halfway_changes_nothing_in_the_training(context):
    alone, checked = evaluate(context, all_five(None)), evaluate(context, all_five(0.0))
    assert checked.status is Status.COMPLETED, checked.error
    assert (checked.score, checked.metrics) == (alone.score, alone.metrics)
    assert (alone.early_score, type(checked.early_score)) == (None, float)
    assert torch.equal(
        tiny.weights_after(context, tiny.ALL_FIVE), tiny.weights_after(context, all_five(0.0))
    )


def test_a_trial_below_its_bar_is_stopped_halfway(context, monkeypatch):
    done = []
    monkeypatch.setattr(
        trial.RejectionHook, "after_train_iter", lambda *args, **more: done.append(1)
    )
    whole = evaluate(context, all_five(0.0))
    iterations = len(done)
    assert evaluate(context, all_five(whole.early_score)).status is Status.COMPLETED
    done.clear()
    stopped = evaluate(context, all_five(whole.early_score + 1e-9))
    assert stopped.status is Status.STOPPED
    assert (stopped.score, stopped.early_score) == (None, whole.early_score)
    assert f"halfway with an AP of {whole.early_score:.4f}" in stopped.reason
    assert len(done) == math.ceil(iterations / 2)


def test_a_trial_says_how_far_it_is_in_a_file_and_in_its_log(context, monkeypatch, tmp_path, capfd):
    """What another process reads at the beginning of each iteration: how far the last one came."""
    monkeypatch.setattr(progress, "WRITE_EVERY", 0.0)
    shown = replace(context, folder=tmp_path, name="cells")
    running = progress.running_folder(tmp_path, "cells")
    running.mkdir()
    seen = []
    monkeypatch.setattr(
        trial.RejectionHook, "before_train_iter", lambda *args, **more: seen.append(read(running))
    )
    outcome = evaluate(shown, all_five(None))
    assert outcome.score == evaluate(context, all_five(None)).score
    known = [one[0] for one in seen[1:] if one]
    assert seen[0] == {}
    assert [one.iteration for one in known] == [*range(1, known[0].iterations)]
    assert all(one.loss > 0 for one in known)
    assert [one.seconds_left is None for one in known[:2]] == [True, False]
    assert list(running.iterdir()) == [], "it is done"
    assert f"iteration 1/{known[0].iterations}, loss " in capfd.readouterr().out


@pytest.mark.slow
def test_the_early_score_is_that_of_every_third_validation_image(context, monkeypatch, tmp_path):
    longer = context.schedule.model_copy(update={"epochs": 5})
    early = evaluate(replace(context, schedule=longer), all_five(0.0)).early_score
    document = json.loads(Path(context.val_set.ann_file).read_text("utf-8"))
    document["images"] = document["images"][:: trial.EARLY_EVERY]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    (tmp_path / "part.json").write_text(json.dumps(document), "utf-8")
    train_split, part = (
        Split(annotations=file, images=context.val_set.data_prefix["img"])
        for file in (context.train_set.ann_file, str(tmp_path / "part.json"))
    )
    smaller = TrialContext.build(context.task, longer, (train_split, part), seed=0)
    monkeypatch.setattr(trial, "EARLY_EVERY", 1)
    assert evaluate(smaller, all_five(0.0)).early_score == early > 0


def test_a_training_of_a_single_iteration_is_not_checked(context):
    one = {"batch_size": len(context.train_set), "param_scheduler": []}
    schedule = context.schedule.model_copy(update=one)
    outcome = evaluate(replace(context, schedule=schedule), all_five(1.0))
    assert (outcome.status, outcome.early_score) == (Status.COMPLETED, None)


def test_a_remembered_teacher_is_the_teacher(context):
    """In two epochs images come back, flipped or not, beside other images."""
    images = len(context.train_set)
    (teacher,) = context.teachers
    memory = TeacherMemory(teacher, images=images, megabytes=1024)

    def compared(inputs, samples, **asked):
        found = memory(inputs, samples, **asked)
        seen = teacher_knowledge(teacher, inputs, samples, **asked)
        for name in ("features", "logits", "boxes"):
            for ours, theirs in zip(getattr(found, name), getattr(seen, name), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        return found

    schedule = context.schedule.model_copy(update={"epochs": 2})
    form = Distiller.parse("global: identity, pearson × 5; logits: norm_n, pearson × 2")
    outcome = evaluate(replace(context, memories=[compared], schedule=schedule), form)
    assert outcome.status is Status.COMPLETED, outcome.error
    assert images < len(memory._known) < 2 * images, "some were remembered, some seen both ways"


def test_a_loss_above_100_or_nan_ends_the_trial_with_a_reason(context, monkeypatch):
    assert "NaN" in rejection.excessive("loss", float("nan"))
    assert "infinite" in rejection.excessive("loss", float("inf"))
    assert "above 100" in rejection.excessive("loss", 101.0)
    assert rejection.excessive("loss", 99.0) is None
    monkeypatch.setattr(rejection, "MAX_LOSS", 1e-3)
    outcome = evaluate(replace(context, filtered=False), tiny.ALL_FIVE)
    assert outcome.status is Status.REJECTED
    assert "above 0.001 at iteration 1" in outcome.reason


def test_an_exception_is_a_failed_outcome_with_its_traceback(context, monkeypatch):
    monkeypatch.setattr(context, "schedule", context.schedule.model_copy(
        update={"optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "NoSuch"}}}
    ))  # fmt: skip
    outcome = evaluate(context, tiny.ALL_FIVE)
    assert outcome.status is Status.FAILED
    assert outcome.error.startswith("Traceback")
    assert outcome.score is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_ap_that_is_no_number_is_a_failed_outcome(context, value):
    class Faulty(type(context.metric)):
        def compute_metrics(self, results: list) -> dict:
            return super().compute_metrics(results) | {"bbox_mAP": value}

    metric = copy(context.metric)
    metric.__class__ = Faulty
    outcome = evaluate(replace(context, metric=metric), tiny.ALL_FIVE)
    assert outcome.status is Status.FAILED
    assert outcome.score is None
    assert outcome.error == f"the score is {value}: an AP is a number from 0 to 1"


def test_a_progress_file_that_cannot_be_deleted_fails_no_trial(tmp_path):
    (tmp_path / "file").touch()
    progress.ProgressFile(tmp_path / "file", 17).end(Outcome(Status.COMPLETED, score=0.5))
