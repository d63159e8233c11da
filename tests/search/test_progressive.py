"""The teachers of a config on real Ray: measured, ordered, and learned from in sequence."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from detkds.db import Store
from detkds.detectors import build_detector, model_config
from detkds.search.plans.plan import make_plan
from detkds.search.teachers.progressive import shares
from detkds.settings import load_config

pytestmark = pytest.mark.slow

SMALL = (*tiny.OPTIONS, "final.epochs=3")


def arguments_of(folder: Path, first: str, *more: str) -> list[str]:
    return [first, "quickstart", "--work-dir", str(folder), "--cfg-options", *SMALL, *more]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return tiny.run_here(tiny.command(*arguments_of(folder, *arguments)))


def store(folder: Path) -> Store:
    return Store(f"sqlite:///{folder}/detkds.db")


def test_shares_are_equal_and_the_total_is_kept() -> None:
    assert shares(24, ["a", "b"]) == [12, 12]
    assert shares(24, ["a", "b", "c", "d", "e"]) == [5, 5, 5, 5, 4]
    assert shares(3, ["a", "b", "c"]) == [1, 1, 1]


def test_the_whole_learning_rate_schedule_fits_into_a_stage() -> None:
    """24 epochs with steps at 16 and 22 become 12 with steps at 8 and 11, the 1x schedule."""
    whole = load_config("coco/retinanet_r50__retinanet_x101").final.schedule
    half = whole.over(12)
    warmup, steps = half.param_scheduler
    assert (half.epochs, steps["milestones"]) == (12, [8, 11])
    assert warmup == whole.param_scheduler[0], "counted in iterations: as long as before"
    assert whole.param_scheduler[1]["milestones"] == [16, 22]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def ordered(folder: Path) -> dict:
    done = run(folder, "teachers", "--images", "40", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_order_is_made_of_measured_costs_and_scores(folder: Path, ordered: dict) -> None:
    assert set(ordered["scores"]) == {"r18", "r34"}
    assert set(ordered["order"]) <= {"r18", "r34"}
    with store(folder) as opened:
        (row, *_) = opened.trainings()
        assert {training.name for training in opened.trainings()} == {"none", "r18", "r34"}
        assert row.outcome.completed
    assert ordered["costs"]["student"]["r34"] > 0
    assert ordered["costs"]["r34"]["r18"] > 0


def test_costs_are_measured_once(folder: Path, ordered: dict) -> None:
    with store(folder) as opened:
        assert len({row.data for row in every_cost(opened)}) == 1
        before = every_cost(opened)
        assert len(before) == 6
        assert all(set(row.levels) == {"8", "16", "32", "64"} for row in before)
    plan = make_plan(load_config("quickstart", SMALL), folder, pool=True)
    assert {row.source_key for row in before} == {one.with_weights.key for one in plan.pool}
    again = run(folder, "teachers", "--images", "40", "--json")
    assert json.loads(again.stdout.splitlines()[-1])["costs"] == ordered["costs"]
    with store(folder) as opened:
        assert every_cost(opened) == before


def every_cost(opened: Store) -> list:
    from detkds.db.models import AdaptationCost
    from detkds.db.rows import CostRow, to_row
    from sqlalchemy import select

    return opened._transactions.read(
        lambda session: [to_row(CostRow, cost) for cost in session.scalars(select(AdaptationCost))]
    )


@pytest.fixture(scope="module")
def trained(folder: Path, ordered: dict) -> list[Path]:
    """The folders of the stages."""
    done = run(folder, "train", "--distiller", "pkd", "--teachers", "r18,r34")
    assert done.returncode == 0, done.stderr
    assert "r18 → r34" in done.stdout
    assert "the student starts from 3 epochs of training alone" in done.stdout
    stages = sorted(folder.glob("trained/pkd-progressive-seed0-*/*"))
    assert [stage.name for stage in stages] == ["1-r18", "2-r34"]
    return stages


def test_every_stage_has_its_row_and_its_share(folder: Path, trained: list[Path]) -> None:
    with store(folder) as opened:
        rows = [row for row in opened.trainings() if row.name.startswith("pkd")]
    assert [row.name for row in rows] == ["pkd 1/2 r18", "pkd 2/2 r34"]
    assert all(row.outcome.completed and row.score is not None for row in rows)
    progress = [json.loads((stage / "progress.json").read_text()) for stage in trained]
    assert [done for done, _ in progress] == [28, 14], "2 and 1 of 3 epochs of 14 iterations"


def test_the_student_is_carried_over_and_plain(trained: list[Path]) -> None:
    first, last = (torch.load(s / "student.pth", weights_only=True) for s in trained)
    config = load_config("quickstart").student
    stock = build_detector(model_config(config.config, config.cfg_options))
    stock.load_state_dict(last["state_dict"])
    name = "backbone.conv1.weight"
    start = (first["state_dict"][name] - last["state_dict"][name]).abs().max()
    assert 0 < start < 1


def test_the_student_starts_from_the_student_of_the_costs(
    folder: Path, trained: list[Path]
) -> None:
    """Each batch that a student has been trained on counts: 3 epochs alone, then 2, then 1."""
    (alone,) = folder.glob("trained/none-seed0-*")
    seen = [
        int(torch.load(one / "student.pth")["state_dict"]["backbone.bn1.num_batches_tracked"])
        for one in (alone, *trained)
    ]
    assert seen == [3 * 14, 5 * 14, 6 * 14]


def test_a_stopped_training_goes_on_and_other_teachers_are_refused(
    command: Callable[..., tuple[int, str]], folder: Path, trained: list[Path]
) -> None:
    for name in ("student.pth", "outcome.json"):
        (trained[1] / name).unlink()
    arguments = arguments_of(folder, "train", "--distiller", "pkd", "--teachers", "r34,r18")
    code, printed = command(*arguments)
    assert code == 2
    assert "was started with r18,r34 and is not finished" in printed
    assert len(printed.strip().splitlines()) == 1
    done = run(folder, "train", "--distiller", "pkd", "--teachers", "r18,r34")
    assert done.returncode == 0, done.stderr
    with store(folder) as opened:
        names = [row.name for row in opened.trainings() if row.name.startswith("pkd")]
    assert names == ["pkd 1/2 r18", "pkd 2/2 r34", "pkd 2/2 r34"]


def test_two_teachers_teach_at_once(folder: Path, ordered: dict) -> None:
    """One training has the losses of both teachers, and leaves a plain student."""
    command = ("train", "--distiller", "pkd", "--teachers", "r18,r34", "--simultaneous")
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr
    (left,) = folder.glob("trained/pkd-simultaneous-seed0-*")
    assert json.loads((left / "progress.json").read_text()) == [42, 42], "3 epochs of 14 iterations"
    (log,) = left.glob("*/vis_data/scalars.json")
    logged = json.loads(log.read_text().splitlines()[-1])
    assert {"loss_global_0", "loss_global_1"} <= logged.keys()
    config = load_config("quickstart").student
    stock = build_detector(model_config(config.config, config.cfg_options))
    stock.load_state_dict(torch.load(left / "student.pth", weights_only=True)["state_dict"])
    with store(folder) as opened:
        (row,) = (row for row in opened.trainings() if row.name == "pkd under r18, r34")
    assert row.outcome.completed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--simultaneous: say which teachers teach at once: give --teachers"),
        (("--teachers", "auto", "--max-teachers", "1"), "--max-teachers 1: it ends a sequence"),
    ],
)
def test_teachers_at_once_are_named(
    command: Callable[..., tuple[int, str]], tmp_path: Path, options: tuple, says: str
) -> None:
    code, printed = command("train", "quickstart", "--distiller", "pkd", "--simultaneous", *options)
    assert code == 2
    assert says in printed
    assert len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("teachers", "says"),
    [
        ("r18,r35", "no teacher 'r35': did you mean"),
        ("r18,r18", "a teacher stands there twice"),
        ("r18", "one teacher is no sequence"),
        ("student,r18", "the student is no teacher of its own"),
    ],
)
def test_a_wrong_list_of_teachers(
    command: Callable[..., tuple[int, str]], tmp_path: Path, teachers: str, says: str
) -> None:
    code, printed = command("train", "quickstart", "--distiller", "pkd", "--teachers", teachers)
    assert code == 2
    assert says in printed
    assert not list(tmp_path.iterdir())
