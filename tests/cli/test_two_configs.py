"""Two mmdet configs on the command line: no section of ours is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch
from detkds.cli import main
from detkds.data import ShapesFiles, make_shapes, read_annotations, write_annotations
from mmengine.config import Config
from real_data import BCCD
from two_configs import user_config, weights_of

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
    assert again.startswith("# note  final: the warm-up (LinearLR) takes 1 of 18 iterations, not")
    assert _config(again) == _config(printed)
    assert ended(monkeypatch, "train", "resolved.py", "--distiller", "pkd", "--dry-run") == 0
    assert capsys.readouterr().out == again


def _config(printed: str) -> list[str]:
    """What is printed, without comments."""
    return [line for line in printed.splitlines() if line[:1] != "#"]


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


def test_an_export_is_a_plain_mmdet_config(
    models: list[str], files: ShapesFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = ["--export-config", "out.py"]
    assert ended(monkeypatch, "train", *models, "--distiller", "pkd", *out) == 0
    exported = Config.fromfile("out.py")
    assert exported.model.type == "DistilledDetector"
    assert exported.train_dataloader.dataset.ann_file == str(files.train)


#: A user's RTMDet: mmdet's own, thin, with its own pipeline at 64 pixels; the second epoch has no
#: mosaic and no mixup any more.
RTMDET = """
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
model = dict(
    backbone=dict(deepen_factor=0.1, widen_factor=0.125, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(num_classes=3, in_channels=32, feat_channels=32))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
crop = [
    dict(type='RandomResize', scale=(128, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 114, 114)))]
mosaic = dict(type='CachedMosaic', img_scale=(64, 64), pad_val=114.0, max_cached_images=20)
mixup = dict(
    type='CachedMixUp', img_scale=(64, 64), ratio_range=(1.0, 1.0), max_cached_images=10,
    pad_val=(114, 114, 114))
pack = dict(type='PackDetInputs')
files = dict(
    data_prefix=dict(img='IMAGES'),
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = test_pipeline[2].size = (64, 64)
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(
        ann_file='FILES/train.json', pipeline=[*load, mosaic, *crop, mixup, pack], **files))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(ann_file='FILES/val.json', pipeline=test_pipeline, **files))
val_evaluator = dict(ann_file='FILES/val.json')
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True),
    dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[*load, *crop, pack])]
train_cfg = dict(max_epochs=2, val_interval=1, dynamic_intervals=None)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
"""


@pytest.mark.slow
def test_a_stock_config_is_searched_and_trained_on_cells(tmp_path: Path) -> None:
    """The README's two commands, with RTMDet's mosaic and mixup on a few real images."""
    if not BCCD.is_dir():
        pytest.skip(f"no {BCCD}")
    student = tmp_path / "rtmdet.py"
    text = RTMDET.replace("FILES", str(tmp_path)).replace("IMAGES", f"{BCCD}/images/")
    student.write_text(text)
    for name, count in {"train": 24, "val": 8}.items():
        document = read_annotations(BCCD / f"{name}.json")
        few = document["images"][:count]
        boxes = [a for a in document["annotations"] if a["image_id"] in {one["id"] for one in few}]
        write_annotations(
            tmp_path / f"{name}.json", {**document, "images": few, "annotations": boxes}
        )
    weights = weights_of(student, tmp_path / "best.pth")
    options = ["search.divide=False", "search.algorithm=random", "search.trials=2"]
    options += ["search.start=[]", "confirm=None", "proxy.train_images=16", "proxy.val_images=8"]
    options += ["resources.dashboard=False", "resources.workers=1"]
    models = ["--student", student, "--teacher", student, "--teacher-checkpoint", weights]
    folder = tmp_path / "run"
    both = [*models, "--work-dir", str(folder), "--cfg-options", *options]
    searched = tiny.run_here(tiny.command("search", "--name", "cells", *both))
    assert searched.returncode == 0, searched.stderr[-3000:]
    assert "derived  proxy: of 24 training images, trials train on 16" in searched.stdout
    found = folder / "cells.json"
    assert f"distiller: {found}" in searched.stdout, "even if no trial has learned anything"
    trained = tiny.run_here(tiny.command("train", "--distiller", found, *both))
    assert trained.returncode == 0, trained.stderr[-3000:]
    (checkpoint,) = folder.glob("trained/*/student.pth")
    assert torch.load(checkpoint)["meta"]["dataset_meta"]["classes"] == CELLS
    assert list(checkpoint.parent.glob("*/vis_data/scalars.json"))
    assert list(checkpoint.parent.glob("epoch_2.pth")), "mmengine's own checkpoint"
