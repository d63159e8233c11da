"""Validations within full trainings: how often, on which images, and the best student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from detkds.cli.results import curve_lines
from detkds.data import make_shapes
from detkds.detectors import build_detector, model_config
from detkds.search.plans.full import full_job, student_training
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.settings import SearchConfig, load_config
from detkds.settings.load import validated
from detkds.space import Status, WrongUse
from detkds.workers import runner
from detkds.workers import training as workers_training
from detkds.workers.curves import best_checkpoint, validations
from detkds.workers.job import SHOWN, saves_best, with_validation
from detkds.workers.training import Training, train
from two_configs import user_config, weights_of

SMALL = (
    *("data.synthetic.train=24", "data.synthetic.val=12", "proxy.train_images=16"),
    *("proxy.val_images=8", "final.epochs=3"),
)
ASKED = ("final.val_interval=2", "final.save_best=True")


def planned(folder: Path, *options: str) -> Plan:
    return make_plan(load_config("quickstart", [*tiny.OPTIONS, *SMALL, *options]), folder)


def alone(plan: Plan) -> Training:
    return student_training(plan, "none", None, 0)


def test_a_job_is_validated_as_it_says_unless_final_says_otherwise() -> None:
    hook = {"type": "CheckpointHook", "interval": 1, "save_best": "auto"}
    own: dict[str, Any] = {
        "train_cfg": {"val_interval": 5, "dynamic_intervals": [(10, 1)]},
        "val_cfg": {"type": "ValLoop", "fp16": True},
        "default_hooks": {"checkpoint": hook, "logger": {"type": "LoggerHook"}},
    }
    assert saves_best(own)
    assert with_validation(own, None, None) == own
    other = with_validation(own, 2, False)
    assert other["train_cfg"] == {"val_interval": 2}
    assert other["val_cfg"] == own["val_cfg"]
    assert other["default_hooks"]["checkpoint"] == {"type": "CheckpointHook", "interval": 1}
    assert not saves_best(other)
    assert own["default_hooks"]["checkpoint"] == hook, "the job itself stays as it is"
    loud = with_validation({**own, "default_hooks": {}}, None, True)
    assert loud["default_hooks"]["checkpoint"]["interval"] == 1, "as without, by mmengine"
    made = with_validation({}, 2, True)
    assert saves_best(made)
    assert made["default_hooks"]["checkpoint"]["interval"] == -1
    assert made["default_hooks"].items() > {k: v for k, v in SHOWN.items() if v}.items()


def test_by_default_nothing_is_validated_and_keys_are_those_of_before(tmp_path: Path) -> None:
    plan, asked = planned(tmp_path), planned(tmp_path, *ASKED)
    assert full_job(plan.config) is plan.config.job
    assert alone(plan).val is None
    assert alone(asked).val == plan.val, "not the test split"
    assert alone(asked).folder != alone(plan).folder, "a validation draws numbers"
    assert asked.conditions == plan.conditions, "trials are as without"
    assert not [note for note in asked.notes if "save_best" in note]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["final.save_best=True"], "final.save_best chooses among validations"),
        (["final.val_interval=0"], "final.val_interval: Input should be greater"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        load_config("quickstart", options)


def test_a_users_config_says_it_and_the_test_split_is_named(tmp_path: Path) -> None:
    files = make_shapes(tmp_path / "shapes", train=12, val=1, test=4, size=64)
    student = user_config(
        tmp_path,
        files,
        **{
            "train_cfg.val_interval": 2,
            "default_hooks.checkpoint": {"type": "CheckpointHook", "save_best": "coco/bbox_mAP"},
        },
    )
    weights = weights_of(student, tmp_path / "t.pth")
    given = {
        "student": {"config": str(student)},
        "teacher": {"config": str(student), "checkpoint": str(weights)},
    }
    sections, _ = completed(given, tmp_path)
    plan = make_plan(validated(SearchConfig, sections, "config"), tmp_path)
    training = alone(plan)
    assert training.job["train_cfg"]["val_interval"] == 2
    assert training.val is None
    (note,) = [note for note in plan.notes if "save_best" in note]
    assert "chooses the epoch by the test images" in note


class Killed(BaseException):
    """Ends a training like a signal: no handler of exceptions catches this exception."""


@pytest.mark.slow
def test_the_best_student_is_kept_and_a_kill_before_the_last_validation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, *ASKED)
    make_data(plan)
    training = alone(plan)
    original = runner._Validated.before_val_epoch

    def killed(hook: Any, run: Any) -> None:
        if run.epoch == 3:
            raise Killed
        original(hook, run)

    monkeypatch.setattr(runner._Validated, "before_val_epoch", killed)
    with pytest.raises(Killed):
        train(training)
    monkeypatch.undo()
    scored: list[int] = []

    def score(student: Any, images: Any, *more: Any) -> dict[str, float]:
        scored.append(len(images))
        return runner.score(student, images, *more)

    monkeypatch.setattr(workers_training, "score", score)
    folder = Path(training.folder)
    assert [epoch for epoch, _ in validations(folder)] == [2]
    outcome = train(training)
    assert outcome.status is Status.COMPLETED, outcome.error
    curve = validations(folder)
    assert [epoch for epoch, _ in curve] == [2, 3], "every second epoch, and the last"
    file = best_checkpoint(folder)
    assert file is not None
    best = max(curve, key=lambda one: (one[1], -one[0]))[0]
    assert file.name == f"best_coco_bbox_mAP_epoch_{best}.pth"
    assert sorted(folder.glob("epoch_*.pth")) == [], "and no other epoch's"
    stock = build_detector(
        model_config("detkds::retinanet_r18_thin.py", {"model.bbox_head.num_classes": 4})
    )
    weights = torch.load(file, weights_only=False)["state_dict"]
    stock.load_state_dict(weights, strict=True)
    last = torch.load(training.checkpoint, weights_only=True)["state_dict"]
    same = all(torch.equal(weights[name], last[name]) for name in last)
    assert same == (best == 3), "student.pth is the last epoch's"
    assert scored == [8], "the outcome is of the test split, which is scored once"
    assert outcome.metrics.keys() >= {"bbox_mAP", "bbox_mAP_50"}
    lines = curve_lines(training)
    assert lines[0].startswith("none, seed 0: AP by epoch: 2: ")
    assert lines[1].endswith(f"on data.val: {file}")
