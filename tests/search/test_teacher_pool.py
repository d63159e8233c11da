"""Costs, scores and stages of teachers of different strides and sizes, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.data import make_shapes
from detkds.db import CostRow, Store
from detkds.detectors import build_detector, model_config
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.search.teachers.pool import make_pool, measured_costs
from detkds.search.teachers.progressive import progressive_stages
from detkds.settings import load_config
from detkds.space import Distiller
from detkds.workers.training import train
from mmengine.config import Config
from thin_detectors import thin_config

PKD = Distiller.parse("global: norm_hw, l2 × 1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and detectors of random weights: strides 4 to 64 of two stages, 8 to 128 of FCOS."""
    folder = tmp_path_factory.mktemp("pool")
    make_shapes(folder / "shapes", train=28, val=4, test=4, size=96)
    for seed, (name, family, neck) in enumerate(
        (("student", "faster_rcnn", 12), ("a", "faster_rcnn", 16), ("b", "faster_rcnn", 20),
         ("fcos", "fcos", 16))
    ):  # fmt: skip
        torch.manual_seed(seed)
        config = thin_config(family, neck)
        model = build_detector(config)
        model.init_weights()
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pth")
        Config({"model": config}).dump(folder / f"{name}.py")
    return folder


def model(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    return {"config": f"{folder}/{name}.py", "checkpoint": f"{folder}/{name}.pth", **more}


def planned(folder: Path, teachers: dict[str, Any]) -> Plan:
    shapes = folder / "shapes"
    options = [
        *(f"data.{split}.annotations={shapes}/{split}.json" for split in ("train", "val", "test")),
        *(f"data.{split}.images={shapes}/images" for split in ("train", "val", "test")),
        f"student={model(folder, 'student')}",
        f"teacher={model(folder, 'a')}",
        f"teachers={ {name: model(folder, name, **more) for name, more in teachers.items()} }",
        "data.image_size=(64,64)", "proxy.train_images=24", "proxy.val_images=4",
        "final.epochs=2", "final.seeds=[0]", "final.param_scheduler=[]",
        "resources.dashboard=False",
    ]  # fmt: skip
    plan = make_plan(load_config("custom", options), folder / "run", pool=True)
    make_data(plan)
    return plan


def here(job: Any) -> Any:
    return job()


def measured(plan: Plan, file: Path) -> list[CostRow]:
    with Store(f"sqlite:///{file}") as store:
        return measured_costs(plan, store, 24, here)


def test_a_teacher_that_joins_changes_no_row(folder: Path, tmp_path: Path) -> None:
    """Row by row: the two-stage pool's costs are the same with an FCOS that sees larger images."""
    few = planned(folder, {"a": {}, "b": {}})
    more = planned(folder, {"a": {}, "b": {}, "fcos": {"image_size": (96, 96)}})
    alone, joined = measured(few, tmp_path / "few.db"), measured(more, tmp_path / "more.db")
    assert (len(alone), len(joined)) == (6, 12)
    found = {(row.source_key, row.target_key, row.data): row for row in joined}
    for row in alone:
        same = found[row.source_key, row.target_key, row.data]
        assert set(row.levels) == set(same.levels) == {"4", "8", "16", "32", "64"}
        assert [same.cost, same.fit] == pytest.approx([row.cost, row.fit], rel=1e-3)
    within = {row.target: row.cost for row in measured(more, tmp_path / "few.db")}
    assert set(within) == {"student", "a", "b", "fcos"}, "the store of the few goes on"


@pytest.mark.slow
def test_each_stage_of_a_sequence_is_of_its_teachers_size(folder: Path, tmp_path: Path) -> None:
    sizes = {"a": {"image_size": (80, 80)}, "fcos": {"image_size": (96, 96)}}
    plan = planned(folder, sizes)
    pool = make_pool(plan, measured(plan, tmp_path / "costs.db"), here)
    assert set(pool.scores) == set(sizes)
    last = None
    for stage in progressive_stages(plan, list(plan.pool[1:]), "pkd", PKD, 0):
        outcome = train(stage)
        assert outcome.completed, outcome.error
        last = stage
    assert last is not None
    stock = build_detector(model_config(plan.task.student.config))
    stock.load_state_dict(torch.load(last.checkpoint, weights_only=True)["state_dict"])
