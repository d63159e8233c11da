"""Full trainings of a user's mmdet config: as mmdet's own script trains the exported one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from detkds.data import ShapesFiles, make_shapes
from detkds.search.plans.full import student_training
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import make_plan
from detkds.settings import SearchConfig
from detkds.settings.load import merge, validated
from detkds.space import Distiller, Status
from detkds.workers.plain_config import write_plain_config
from detkds.workers.training import Training, train
from mmengine.hooks import Hook
from two_configs import mosaic_set, user_config, weights_of

pytestmark = pytest.mark.slow

TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"
FORM = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 2; logits: norm_n, pearson × 1")
#: What a user's config may ask for; mmengine's AmpOptimWrapper runs on GPUs only.
OPTIONS: dict[str, Any] = {
    "optim_wrapper.clip_grad": {"max_norm": 35},
    "param_scheduler": [{"type": "MultiStepLR", "milestones": [1], "gamma": 0.1}],
    "custom_hooks": [{"type": "EMAHook"}],
    "default_hooks.logger.interval": 1,
    "visualizer.vis_backends": [{"type": "LocalVisBackend"}],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=1, test=4, size=64)


def training(files: ShapesFiles, folder: Path, family: str, **options: Any) -> Training:
    """A training under a teacher with a wider neck, so that the distiller has adapters."""
    mixed = mosaic_set(files) if family == "faster_rcnn" else None
    student = user_config(folder, files, mixed, family=family, **options)
    wide = {"model.neck.out_channels": 24, "model.bbox_head.in_channels": 24}
    if family == "faster_rcnn":
        wide = {
            "model.neck.out_channels": 24,
            "model.rpn_head.in_channels": 24,
            "model.roi_head.bbox_roi_extractor.out_channels": 24,
            "model.roi_head.bbox_head.in_channels": 24,
        }
    teacher = user_config(folder, files, family=family, name="teacher.py", **wide)
    given = {
        "student": {"config": str(student)},
        "teacher": {
            "config": str(teacher),
            "checkpoint": str(weights_of(teacher, folder / "t.pth")),
        },
    }
    sections, _ = completed(merge(given, {"final.seeds": [3]}), folder)
    plan = make_plan(validated(SearchConfig, sections, "config"), folder)
    return student_training(plan, "found", FORM, 3)


def logged(folder: Path) -> list[dict[str, float]]:
    """The losses of every iteration, and the metrics of every validation, from mmengine's log."""
    (file,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = ("loss", "lr", "coco/")
    return [{k: v for k, v in line.items() if k.startswith(names)} for line in lines]


@pytest.mark.skipif(not TOOLS.is_dir(), reason="this mmdet has no scripts with it")
@pytest.mark.parametrize("family", ["retinanet", "faster_rcnn"])
def test_mmdets_script_has_the_same_losses_in_every_iteration(
    files: ShapesFiles, tmp_path: Path, family: str
) -> None:
    ours = training(files, tmp_path, family, **OPTIONS)
    outcome = train(ours)
    assert outcome.status is Status.COMPLETED, outcome.error
    plain = tmp_path / "plain.py"
    write_plain_config(ours, plain)
    script = [sys.executable, str(TOOLS / "train.py"), str(plain), "--work-dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*script, str(tmp_path / "theirs")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = logged(Path(ours.folder)), logged(tmp_path / "theirs")
    assert len(expected) == 2 * 3 + 2, "two epochs of three iterations, each validated"
    assert len(found) == len(expected)
    for own, line in zip(expected, found, strict=True):
        assert line == pytest.approx(own, rel=1e-5, abs=1e-7)
    assert expected[0].keys() >= {"loss", "loss_global", "loss_logits"}
    metrics = {k.removeprefix("coco/"): v for k, v in expected[-1].items() if "coco/" in k}
    assert outcome.metrics == pytest.approx(metrics)
    last = torch.load(tmp_path / "theirs" / "epoch_2.pth", weights_only=False)["state_dict"]
    kept = torch.load(ours.checkpoint)["state_dict"]
    assert kept.keys() == last.keys(), "the average of the weights, by the student's own names"
    torch.testing.assert_close(kept, last, rtol=1e-5, atol=1e-6)


class Killed(BaseException):
    """Ends a training like a signal: no handler of exceptions catches this exception."""


@pytest.mark.parametrize("before", [2, 3, 4])
def test_a_killed_training_ends_as_an_unbroken_one(
    files: ShapesFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Killed within an epoch, after a validation, and later; the sampler of regions draws."""
    whole = training(files, tmp_path, "faster_rcnn", **OPTIONS)
    assert train(whole).status is Status.COMPLETED
    broken = whole.model_copy(update={"folder": str(tmp_path / "broken")})

    def kill(self: Hook, runner: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if runner.iter == before:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("detkds.workers.resuming.EVERY", 2)
        patch.setattr("detkds.workers.runner.ProgressHook.before_train_iter", kill)
        with pytest.raises(Killed):
            train(broken)
    outcome = train(broken)
    assert outcome.status is Status.COMPLETED, outcome.error
    assert outcome.metrics == whole.finished().metrics
    again, once = (torch.load(one.checkpoint)["state_dict"] for one in (broken, whole))
    torch.testing.assert_close(again, once, rtol=0, atol=0)
