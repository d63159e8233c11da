"""Schedules that are made for long trainings fit short ones, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detkds.data import make_shapes
from detkds.search.plans.plan import make_data, make_plan
from detkds.settings import load_config
from detkds.settings.schedules import fitted
from detkds.workers.plain_config import plain_config
from detkds.workers.training import Training, train
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

CUSTOM = load_config("custom").trial.param_scheduler
RTMDET: list[dict[str, Any]] = [
    {"type": "LinearLR", "start_factor": 1e-5, "by_epoch": False, "begin": 0, "end": 1000},
    {
        **{"type": "CosineAnnealingLR", "eta_min": 1e-4, "begin": 1, "end": 1, "T_max": 1},
        **{"by_epoch": True, "convert_to_iter_based": True},
    },
]
YOLOX: list[dict[str, Any]] = [
    {"type": "mmdet.QuadraticWarmupLR", "by_epoch": True, "begin": 0, "end": 5},
    {"type": "CosineAnnealingLR", "by_epoch": True, "begin": 5, "end": 285, "T_max": 285},
    {"type": "ConstantLR", "by_epoch": True, "factor": 1, "begin": 285, "end": 300},
]
STEPS: list[dict[str, Any]] = [
    {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 500},
    {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": 12, "milestones": [8, 11]},
]


@pytest.mark.parametrize("iterations", [1, 2, 9, 10, 11, 400, 4000])
@pytest.mark.parametrize("schedulers", [CUSTOM, RTMDET, YOLOX, STEPS])
def test_mmengine_builds_what_is_fitted(schedulers, iterations):
    epochs = max(1, iterations // 10)
    if schedulers is RTMDET:
        epochs = 1  # the schedulers are those that an epoch leaves of its 300
    optimizer = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}}
    wrapper = build_optim_wrapper(nn.Linear(1, 1), optimizer)
    found, changes = fitted(schedulers, epochs, iterations)
    assert (found == list(schedulers)) == (not changes)
    for one in found:
        one.setdefault("end", epochs if one.get("by_epoch", True) else iterations)
        given = {"optimizer": wrapper, "epoch_length": -(-iterations // epochs)}
        PARAM_SCHEDULERS.build(one, default_args=given)


def test_a_schedule_with_room_stays_as_it_is():
    assert fitted(STEPS, 1, 501) == (STEPS, [])
    assert fitted(CUSTOM, 1, 11) == (CUSTOM, [])
    falls = [{"type": "LinearLR", "start_factor": 1, "end_factor": 0, "begin": 0, "end": 30}]
    assert fitted(falls, 12, 100) == (falls, [])


def test_what_changes_is_said_in_words():
    cosine = {**CUSTOM[1], "begin": 0}
    assert fitted(CUSTOM, 1, 3) == (
        [cosine],
        ["the warm-up (LinearLR) takes 0 of 3 iterations, not 10"],
    )
    assert fitted(STEPS, 1, 100)[1] == [
        "the warm-up (LinearLR) takes 10 of 100 iterations, not 500"
    ]
    assert fitted(YOLOX, 20, 100)[1] == [
        "ConstantLR, which begins after 285 epochs, is left out: the training has 20 epochs"
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a search of 8 images, whose trainings have 1 iteration an epoch."""
    files = make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=2, test=2, size=64)
    return [
        f"data.train.annotations={files.train}", f"data.train.images={files.images}",
        f"data.test.annotations={files.test}", f"data.test.images={files.images}",
        "student.cfg_options.model.bbox_head.num_classes=4",
        "teacher.cfg_options.model.bbox_head.num_classes=4",
        "proxy.train_images=8", "proxy.val_images=4", "data.image_size=(64,64)",
        "teacher.schedule.epochs=1", "trial.epochs=2", "final.epochs=10", "final.seeds=[0]",
    ]  # fmt: skip


def test_a_dry_run_says_it_of_every_section(command, short):
    code, said = command("search", "custom", "--dry-run", "--cfg-options", *short)
    assert code == 0, said
    notes = [line.removeprefix("# note  ") for line in said.splitlines() if "note  " in line]
    assert notes == [
        "teacher.schedule: the warm-up (LinearLR) takes 0 of 2 iterations, not 10",
        "trial: the warm-up (LinearLR) takes 0 of 2 iterations, not 10",
        "confirm: the warm-up (LinearLR) takes 0 of 4 iterations, not 10",
    ]
    assert "derived" not in said


def test_a_teacher_of_two_iterations_is_trained_and_exported(short, tmp_path: Path):
    plan = make_plan(load_config("custom", short), tmp_path)
    make_data(plan)
    assert isinstance(plan.teacher, Training)
    outcome = train(plan.teacher)
    assert outcome.completed, outcome.error
    exported = plain_config(plan.teacher).param_scheduler
    assert [(one["type"], one["begin"]) for one in exported] == [("CosineAnnealingLR", 0)]


def test_the_shipped_quickstart_needs_no_change(tmp_path: Path):
    assert make_plan(load_config("quickstart"), tmp_path).notes == []
