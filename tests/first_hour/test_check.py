"""`detkds check`: the steps of all kinds are tried, and the whole is estimated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
from detkds.search.inspection import one_of_each_kind
from detkds.search.plans.estimate import Work, confirmations, in_words, whole_work
from detkds.search.plans.plan import make_data, make_plan
from detkds.settings import Confirm, load_config
from detkds.space import SearchFailed
from detkds.workers import steps
from detkds.workers.steps import ALONE, SCORING, TEACHER, try_steps

EXTENDED = ("search.space=extended", "search.knowledge=['global','cross_logits','label']")


def test_the_estimate_counts_all_trainings_of_the_quickstart(tmp_path: Path):
    plan = make_plan(load_config("quickstart"), tmp_path)
    found = {one.stage: (one.trainings, one.epochs, one.images) for one in whole_work(plan)}
    assert found == {
        "teacher": (1, 10, 600),
        "trials": (40, 6, 360),
        "confirmation": (18, 8, 360),
        "student alone": (2, 7, 600),
        "final trainings": (4, 7, 600),
    }
    assert in_words(whole_work(plan))[1] == "trials: 40 x 6 epochs of 360 images, 51% of all"


def test_algorithm_1_on_coco_is_mostly_trials_and_the_final_ones_are_not_left_out():
    work = [Work("trials", 540, 1, 25_000), Work("final trainings", 3, 24, 117_266)]
    assert in_words(work)[1] == "final trainings: 3 x 24 epochs of 117266 images, 38% of all"


def test_rounds_of_a_confirmation():
    assert confirmations(Confirm(candidates=4, rounds=1, seeds=2), start=0) == 8
    assert confirmations(Confirm(candidates=4, rounds=2, seeds=2), start=20) == 12 + 8


def test_hours_are_those_of_the_workers_side_by_side():
    work = Work("trials", 5, 2, 100, scored=50)
    seconds = {TEACHER: 9.0, ALONE: 1.0, "global": 2.0, "logits": 4.0, SCORING: 0.5}
    assert work.hours(seconds, 1) == pytest.approx(5 * (200 * 3 + 25) / 3600)
    assert work.hours(seconds, 2) == pytest.approx(3 * (200 * 3 + 25) / 3600)
    alone = Work("student alone", 1, 1, 3600, kind=ALONE)
    assert alone.hours({ALONE: 1.0, SCORING: 1.0}, 8) == 1.0


@pytest.mark.slow
def test_steps_of_every_kind_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(load_config("quickstart", [*tiny.OPTIONS, *EXTENDED]), tmp_path)
    make_data(plan)
    kinds = one_of_each_kind(plan)
    found = try_steps(plan.task, plan.config.trial, plan.proxy, kinds, plan.teacher)
    assert [one.name for one in found] == [TEACHER, ALONE, *plan.space.knowledge, SCORING]
    assert all(0 < one.seconds < 60 and one.megabytes > 0 for one in found)

    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTry less")

    monkeypatch.setattr(steps, "train_student", broken)
    with pytest.raises(SearchFailed, match=r"^a step of 'student alone' fails: RuntimeError: CUDA"):
        try_steps(plan.task, plan.config.trial, plan.proxy, kinds, None)


@pytest.mark.slow
def test_the_command_runs_where_trials_run(tmp_path: Path):
    arguments = tiny.command("check", "quickstart", "--work-dir", "run", "--cfg-options")
    done = tiny.run_here([*arguments, *tiny.OPTIONS], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    for stage, trainings in {"teacher": 1, "trials": tiny.TRIALS, "final trainings": 2}.items():
        assert re.search(rf"│ {stage} +│ +{trainings} │", done.stdout), done.stdout
    assert re.search(r"│ in all +│ +16 │ +│ +│ +\d+\.\d\d │", done.stdout), done.stdout
    assert re.search(r"│ logits +│ +[\d.]+ │ +\d+ │", done.stdout), done.stdout
    assert not (tmp_path / "run" / "detkds.db").exists()
