"""A full training over iterations, shown by the loggers that the user's config asks for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from detkds.data import make_shapes
from detkds.search.plans.full import student_training
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import make_plan
from detkds.settings import SearchConfig
from detkds.settings.load import validated
from detkds.space import Status
from detkds.workers.training import train
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from two_configs import user_config

#: Backends that write files without a service: only where they are installed.
INSTALLED = [
    {"type": kind, **own}
    for kind, package, own in (
        ("TensorboardVisBackend", "tensorboard", {}),
        ("WandbVisBackend", "wandb", {"init_kwargs": {"mode": "offline"}}),
    )
    if find_spec(package)
]


@VISBACKENDS.register_module(force=True)
class Lines(BaseVisBackend):
    """The user's own backend: a line of text for each scalar."""

    def _init_env(self) -> None:
        pass

    @property
    def experiment(self) -> Path:
        return Path(self._save_dir, "lines.txt")

    def add_config(self, *args: Any, **kwargs: Any) -> None:
        pass

    add_graph = add_image = add_config

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        with self.experiment.open("a") as file:
            file.write(f"{step} {name}\n")

    def add_scalars(self, scalars: dict, step: int = 0, *args: Any, **kwargs: Any) -> None:
        for name, value in scalars.items():
            self.add_scalar(name, value, step)


def test_a_training_over_iterations_is_shown_as_its_config_says(tmp_path: Path) -> None:
    files = make_shapes(tmp_path / "shapes", train=12, val=1, test=4, size=64)
    config = user_config(
        tmp_path,
        files,
        train_cfg={
            **{"_delete_": True, "type": "IterBasedTrainLoop"},
            **{"max_iters": 5, "val_interval": 3},
        },
        param_scheduler=[{"type": "MultiStepLR", "by_epoch": False, "milestones": [4]}],
        log_processor={"by_epoch": False},
        **{
            "train_dataloader.sampler": {"_delete_": True, "type": "InfiniteSampler"},
            "default_hooks.logger.interval": 1,
            "default_hooks.checkpoint": {"by_epoch": False, "interval": 4},
            "visualizer.vis_backends": [{"type": "LocalVisBackend"}, {"type": "Lines"}, *INSTALLED],
        },
    )
    given = {"student": {"config": str(config)}, "search": {"knowledge": ["label"]}}
    sections, _ = completed(given, tmp_path)
    plan = make_plan(validated(SearchConfig, sections, "config"), tmp_path)
    training = student_training(plan, "none", None, 0)
    outcome = train(training)
    assert outcome.status is Status.COMPLETED, outcome.error
    (local,) = Path(training.folder).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in local.read_text().splitlines()]
    rates = [one["lr"] for one in lines if "lr" in one]
    assert len(rates) == 6, "five iterations, and the rest of the second epoch"
    assert rates[3] == rates[0]
    assert rates[4] == pytest.approx(rates[0] / 10), "the milestone's own iteration"
    assert sum("coco/bbox_mAP" in one for one in lines) == 2, "after each epoch of three"
    shown = local.with_name("lines.txt").read_text().splitlines()
    assert {"1 loss", "6 loss"} <= set(shown)
    assert Path(training.folder, "iter_4.pth").is_file()
    for backend, pattern in {
        "TensorboardVisBackend": "events.out*",
        "WandbVisBackend": "*.wandb",
    }.items():
        if any(one["type"] == backend for one in INSTALLED):
            assert list(local.parent.rglob(pattern)), backend
