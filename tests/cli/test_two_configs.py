"""Two mmdet configs on the command line: no section of ours is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch
from detkds.cli import main
from detkds.data import ShapesFiles, make_shapes
from mmengine.config import Config
from real_data import BCCD
from thin_detectors import thin_detector
from two_configs import AUGMENTED, user_config, weights_of

STOCK = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
CELLS = ("RBC", "WBC", "Platelets")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=1, test=4, size=64)


@pytest.fixture(scope="module")
def models(files: ShapesFiles, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("configs")
    config = user_config(folder, files)
    weights = weights_of(config, folder / "best.pth")
    return [
        "--student",
        str(config),
        "--teacher",
        str(config),
        "--teacher-checkpoint",
        str(weights),
    ]


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["detkds", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_a_dry_run_prints_the_whole_config_and_leaves_nothing(
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--dry-run", "--cfg-options", "train_cfg.max_epochs=6", "trial.batch_size=2"]
    assert ended(monkeypatch, "search", *models, *options) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert (
        "# derived  proxy: of 12 training images, trials train on 8 (proxy.train_images)" in printed
    )
    resolved = Config.fromstring(printed, ".py")
    assert (resolved.final.epochs, resolved.trial.epochs) == (6, 3)
    assert (resolved.final.batch_size, resolved.trial.batch_size) == (4, 2)
    (tmp_path / "resolved.py").write_text(printed)
    assert ended(monkeypatch, "search", "resolved.py", "--dry-run") == 0
    again = capsys.readouterr().out
    assert again == "".join(line for line in printed.splitlines(True) if line[:1] != "#")
    assert ended(monkeypatch, "train", "resolved.py", "--distiller", "pkd", "--dry-run") == 0
    assert capsys.readouterr().out == again


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a search config, or --student with --teacher and --teacher-checkpoint"),
        (["--student", "no.py"], "no.py: no such config"),
        (["MODELS", "--cfg-options", "train_dataloder.batch_size=2"],
         "--cfg-options: train_dataloder.batch_size: neither a section nor a part of"),
        (["MODELS", "--cfg-options", "data.flip=0.1"], "data.flip stands beside job"),
        (["MODELS", "--cfg-options", "train_cfg.type=IterBasedTrainLoop"],
         "--student: its train_cfg is a IterBasedTrainLoop that says no max_iters"),
        (["MODELS", "--cfg-options", "model.bbox_head.num_classes=3"],
         "--student: its head has 3 classes"),
        (["MODELS", "--cfg-options", "teacher.checkpoint=none"],
         "--teacher-checkpoint: the teacher has no weights"),
    ],
)  # fmt: skip
def test_a_wrong_use_is_told_by_the_option_that_was_given(
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = [part for one in arguments for part in (models if one == "MODELS" else [one])]
    assert ended(monkeypatch, "search", *whole) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_cannot_be_is_refused(
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, said in {
        ("--export-config", "no/out.py"): "--export-config no/out.py: its folder does not exist",
        ("--export-config", "o.py", "--teachers", "a,b"): "--export-config: a sequence of teachers",
    }.items():
        assert ended(monkeypatch, "train", *models, "--distiller", "pkd", *arguments) == 2
        assert said in capsys.readouterr().err


def thin(prefix: str = "") -> list[str]:
    """A stock RetinaNet made thin."""
    changes = {
        **{"backbone.base_channels": 8, "backbone.stem_channels": 8, "backbone.init_cfg": None},
        **{"backbone.frozen_stages": -1, "backbone.norm_eval": False},
        **{"neck.in_channels": [8, 16, 32, 64], "neck.out_channels": 16},
        **{"bbox_head.in_channels": 16, "bbox_head.feat_channels": 16},
        **{"bbox_head.stacked_convs": 1, "bbox_head.num_classes": 3},
    }
    return [f"{prefix}model.{key}={value}" for key, value in changes.items()]


@pytest.mark.slow
def test_a_stock_config_is_searched_and_trained_on_cells(tmp_path: Path) -> None:
    """The README's two commands, with a pipeline of random sizes, crops and colours."""
    if not BCCD.is_dir():
        pytest.skip(f"no {BCCD}")
    weights = tmp_path / "best.pth"
    teacher = thin_detector("retinanet", **{"model.bbox_head.num_classes": 3})
    torch.save({"state_dict": teacher.state_dict()}, weights)
    options = [
        *thin(),
        *thin("teacher.cfg_options."),
        f"train_dataloader.dataset.pipeline={AUGMENTED}",
    ]
    for loader, split in (("train_dataloader", "train"), ("val_dataloader", "val")):
        options += [
            f"{loader}.dataset.data_root={BCCD}/", f"{loader}.dataset.ann_file={split}.json",
            f"{loader}.dataset.data_prefix.img=images/", f"{loader}.num_workers=0",
            f"{loader}.dataset.metainfo={{'classes': {CELLS}}}", f"{loader}.batch_size=4",
        ]  # fmt: skip
    options += [f"val_evaluator.ann_file={BCCD}/val.json"]
    options += ["val_dataloader.dataset.pipeline.1.scale=(64,64)"]
    options += ["train_cfg.max_epochs=1", "default_hooks.checkpoint.max_keep_ckpts=1"]
    options += ["search.knowledge=['global']", "search.population=2", "search.iterations=1"]
    options += ["search.weights=2", "proxy.train_images=16", "proxy.val_images=8"]
    options += ["search.start=[]", "confirm.candidates=1", "confirm.rounds=1", "confirm.seeds=1"]
    options += ["resources.dashboard=False", "resources.workers=1"]
    models = ["--student", STOCK, "--teacher", STOCK, "--teacher-checkpoint", str(weights)]
    folder = tmp_path / "run"
    both = [*models, "--work-dir", str(folder), "--cfg-options", *options]
    searched = tiny.run(tiny.command("search", "--name", "cells", *both))
    assert searched.returncode == 0, searched.stderr[-3000:]
    assert "derived  proxy: of 205 training images, trials train on 16" in searched.stdout
    assert "best distiller, proxy AP" in searched.stdout
    found = folder / "cells.json"
    trained = tiny.run(tiny.command("train", "--distiller", found, *both))
    assert trained.returncode == 0, trained.stderr[-3000:]
    (checkpoint,) = folder.glob("trained/*/student.pth")
    assert torch.load(checkpoint)["meta"]["dataset_meta"]["classes"] == CELLS
    assert list(checkpoint.parent.glob("*/vis_data/scalars.json"))
    assert list(checkpoint.parent.glob("epoch_1.pth")), "mmengine's own checkpoint"
    out = ["--export-config", tmp_path / "out.py"]
    written = tiny.run(tiny.command("train", "--distiller", found, *out, *both))
    assert written.returncode == 0, written.stderr[-3000:]
    exported = Config.fromfile(tmp_path / "out.py")
    assert exported.model.type == "DistilledDetector"
    assert exported.train_dataloader.dataset.ann_file == str(BCCD / "train.json")
