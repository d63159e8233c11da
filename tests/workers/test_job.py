"""A trial on the user's own pipeline: what is kept from trial to trial changes no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.data import ShapesFiles, make_shapes
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import make_data, make_plan
from detkds.settings import Model, SearchConfig
from detkds.settings.load import merge, validated
from detkds.space import Distiller, Status
from detkds.workers import trial
from detkds.workers.job import make_job, remembered_sizes
from detkds.workers.trial import TrialContext, evaluate
from mmdet.datasets.transforms import PhotoMetricDistortion
from two_configs import (
    AUGMENTED,
    FIXED,
    LOAD,
    REMIXED,
    mosaic_set,
    shapes_set,
    user_config,
    weights_of,
)

FORM = Distiller.parse("global: identity, l2 × 1; logits: norm_n, pearson × 2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=2, test=2, size=64)


@pytest.fixture(scope="module")
def weights(files: ShapesFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return weights_of(user_config(folder, files), folder / "teacher.pth")


def context(
    files: ShapesFiles, weights: Path, folder: Path, train: dict[str, Any], **changes: Any
) -> TrialContext:
    """The context of a search of two mmdet configs; ``train``: the student's training set."""
    folder.mkdir(exist_ok=True)
    model = {"config": str(user_config(folder, files, train))}
    given = {"student": model, "teacher": {**model, "checkpoint": str(weights)}}
    steps = {"trial.epochs": 2, "trial.param_scheduler": []}  # without a warm-up: larger steps
    sections, _ = completed(merge(given, {**steps, **changes}), folder)
    plan = make_plan(validated(SearchConfig, sections, "config"), folder)
    make_data(plan)
    return TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=0)


def trained(context: TrialContext, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, float]:
    """All weights at the end of a trial, and its score."""
    kept = {}
    build = trial.build_student

    def keep(*args: Any) -> Any:
        kept["student"] = build(*args)
        return kept["student"]

    with monkeypatch.context() as patch:
        patch.setattr(trial, "build_student", keep)
        outcome = evaluate(context, FORM)
    assert outcome.status is Status.COMPLETED, outcome.error or outcome.reason
    parameters = [one.detach().flatten() for one in kept["student"].parameters()]
    return torch.cat(parameters), outcome.score


def training_sets(files: ShapesFiles) -> dict[str, dict[str, Any]]:
    fixed, augmented = (shapes_set(files, "train", one) for one in (FIXED, AUGMENTED))
    balanced = {"type": "ClassBalancedDataset", "oversample_thr": 1e-3, "dataset": augmented}
    joined = {"type": "ConcatDataset", "datasets": [balanced]}
    return {
        "fixed": fixed,
        "augmented": augmented,
        "mosaic": mosaic_set(files),
        "wrapped": {"type": "RepeatDataset", "times": 2, "dataset": joined},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "augmented", "mosaic", "wrapped"])
def test_a_trial_ends_the_same_whatever_is_kept(
    files: ShapesFiles, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without a cache and a memory, with both, and again with a cache that is full."""
    train = training_sets(files)[kind]
    plain = context(files, weights, tmp_path / "plain", train, **{"data.cache_megabytes": 0})
    kept = context(files, weights, tmp_path / "kept", train)
    (memory,) = kept.memories
    assert (memory is not None) == (kind == "fixed")
    expected, score = trained(plain, monkeypatch)
    for _ in range(2):
        found, again = trained(kept, monkeypatch)
        assert again == pytest.approx(score, abs=1e-3)
        # A remembered teacher differs in the last digits by the images beside it.
        exact = 0 if memory is None else 1e-4
        torch.testing.assert_close(found, expected, rtol=exact, atol=exact)
    if memory is not None:
        assert memory._known, "the memory was in use"


def test_the_filters_batch_leaves_no_image_for_the_mosaics_of_trials(
    files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    """A student alone needs no filter: its trial sees the same images before and after one."""
    one = context(files, weights, tmp_path / "run", shapes_set(files, "train", REMIXED))
    mixing = [t for t in one.train_set.pipeline.transforms if hasattr(t, "results_cache")]
    assert one.batch.images.shape[0] == 4
    assert [len(each.results_cache) for each in mixing] == [0, 0]


@pytest.mark.slow
def test_a_crop_that_a_memory_took_for_the_image_would_change_the_trial(
    files: ShapesFiles, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would miss if crops of one size looked alike to the student."""
    from detkds.detectors import TeacherMemory

    train = training_sets(files)["augmented"]
    one = context(files, weights, tmp_path / "run", train)
    memory = TeacherMemory(one.teachers[0], images=len(one.train_set), megabytes=1024)
    right, _ = trained(one, monkeypatch)
    wrong, _ = trained(replace(one, memories=[memory]), monkeypatch)
    assert (right - wrong).abs().max() > 1e-3


def test_hooks_and_batch_augments_that_change_images_end_the_memory(files: ShapesFiles) -> None:
    fixed = {"train_dataloader": {"dataset": shapes_set(files, "train", FIXED)}}
    student: dict[str, Any] = {"data_preprocessor": {"type": "DetDataPreprocessor"}}
    assert remembered_sizes(fixed, student) == 1
    assert remembered_sizes({**fixed, "custom_hooks": [{"type": "EMAHook"}]}, student) == 1
    switch = [{"type": "PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": AUGMENTED}]
    assert remembered_sizes({**fixed, "custom_hooks": switch}, student) is None
    resize = {"data_preprocessor": {"batch_augments": [{"type": "BatchSyncRandomResize"}]}}
    assert remembered_sizes(fixed, resize) is None


@pytest.mark.slow
def test_a_pipeline_that_a_hook_switches_is_the_first_again_in_the_next_trial(
    files: ShapesFiles, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = {"type": "PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": FIXED}
    train = training_sets(files)["augmented"]
    one = context(files, weights, tmp_path / "run", train, **{"job.custom_hooks": [hook]})
    assert one.batch is not None  # the filter's own draws, once in a context
    distorted: list[int] = []
    distort = PhotoMetricDistortion.transform
    monkeypatch.setattr(
        PhotoMetricDistortion,
        "transform",
        lambda self, one: distorted.append(1) or distort(self, one),
    )
    first, _ = trained(one, monkeypatch)
    assert len(distorted) == len(one.train_set), "in one of two epochs"
    second, _ = trained(one, monkeypatch)
    assert len(distorted) == 2 * len(one.train_set)
    assert torch.equal(first, second)


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_is_scored_and_kept(
    files: ShapesFiles, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An average that moves no further is the student after its first iteration."""
    frozen = {"type": "EMAHook", "momentum": 1e-9}
    train = training_sets(files)["fixed"]
    plain = context(files, weights, tmp_path / "plain", train)
    averaged = context(files, weights, tmp_path / "ema", train, **{"job.custom_hooks": [frozen]})
    start = trial.build_student(averaged.task.student, 0, None)
    first = torch.cat([one.detach().flatten() for one in start.parameters()])
    moved, _ = trained(plain, monkeypatch)
    kept, _ = trained(averaged, monkeypatch)
    assert 0 < (kept - first).abs().max() < (moved - first).abs().max() / 2


def test_weights_to_start_from_are_taken_as_far_as_they_fit(
    files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    """mmengine's ``load_from``: a head for other classes keeps its random weights."""
    saved = torch.load(weights)["state_dict"]
    classes = {"model.bbox_head.num_classes": 7}
    config = user_config(tmp_path, files, load_from=str(weights), **classes)
    found, _ = completed({"student": {"config": str(config)}}, tmp_path)
    assert found["student"]["load_from"] == str(weights)
    model = validated(Model, found["student"], "student")
    started, alone = (
        trial.build_student(one, 0, None).state_dict()
        for one in (model, model.model_copy(update={"load_from": None}))
    )
    for name, value in started.items():
        fits = value.shape == saved[name].shape
        assert torch.equal(value, (saved if fits else alone)[name]), name
    assert sum(one.shape != saved[name].shape for name, one in started.items()) == 2


def test_a_trial_shows_nothing_and_a_full_training_what_its_config_says(
    files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    one = context(files, weights, tmp_path / "run", training_sets(files)["augmented"])
    own, (train, val) = one.task.job, (one.task.data.train, one.task.data.test)
    assert "val_cfg" not in one.job
    assert {one.job["default_hooks"][name] for name in ("checkpoint", "logger", "timer")} == {None}
    first = one.job["train_dataloader"]["dataset"]["pipeline"][0]
    assert first["type"] == "CachedTransforms"
    assert [each["type"] for each in first["transforms"]] == [each["type"] for each in LOAD]
    full = make_job(own, one.task.data, train, val, full=True)
    for part in ("val_cfg", "default_hooks", "visualizer", "log_processor", "val_evaluator"):
        assert full[part] == own[part], part
    pipeline = full["train_dataloader"]["dataset"]["pipeline"]
    assert [each["type"] for each in pipeline] == [each["type"] for each in AUGMENTED]
    processes = {**own, "train_dataloader": {**own["train_dataloader"], "num_workers": 2}}
    beside = make_job(processes, one.task.data, train, val)["train_dataloader"]
    assert beside["persistent_workers"] is True
    assert beside["dataset"]["pipeline"][0]["type"] == "LoadImageFromFile", "processes keep nothing"
