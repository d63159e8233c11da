"""mmdet's own training and test scripts work without the `detkds` command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from detkds.data import ShapesFiles, make_shapes
from detkds.data.synthetic import CLASSES as SHAPES
from mmengine.config import Config
from thin_detectors import ALL_TERMS, thin_config, thin_detector

pytestmark = pytest.mark.slow

TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"


def loader(annotations: Path, images: Path, training: bool) -> dict[str, Any]:
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
        {"type": "PackDetInputs"},
    ]
    if not training:
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pipeline[-1]["meta_keys"] = keys
    return {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": training},
        "dataset": {
            "type": "CocoDataset",
            "ann_file": str(annotations),
            "data_prefix": {"img": str(images)},
            "metainfo": {"classes": SHAPES},
            "pipeline": pipeline,
            "test_mode": not training,
        },
    }


def write_config(path: Path, model: Any, files: ShapesFiles, imports: str) -> Path:
    config = {
        "default_scope": "mmdet",
        "custom_imports": {"imports": [imports], "allow_failed_imports": False},
        "model": model,
        "train_dataloader": loader(files.train, files.images, training=True),
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 1, "val_interval": 5},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.001}},
        "test_dataloader": loader(files.test, files.images, training=False),
        "test_cfg": {"type": "TestLoop"},
        "test_evaluator": {"type": "CocoMetric", "ann_file": str(files.test), "metric": "bbox"},
    }
    Config(config).dump(path)
    return path


def run(script: str, *arguments: object) -> str:
    module = ("-m", "detkds.detectors.scripts") if script == "test.py" else ()
    command = [sys.executable, *module, str(TOOLS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.skipif(not TOOLS.is_dir(), reason="this mmdet has no scripts with it")
def test_train_py_distils_and_test_py_reads_its_checkpoint(tmp_path: Path) -> None:
    files = make_shapes(tmp_path / "shapes", train=4, val=1, test=2, size=64)
    ALL_TERMS.to_json(tmp_path / "best.json")
    torch.save(thin_detector("retinanet", neck=24).state_dict(), tmp_path / "teacher.pth")
    teacher = write_config(
        tmp_path / "teacher.py", thin_config("retinanet", neck=24), files, "math"
    )
    distilled = {
        "type": "DistilledDetector",
        "student": thin_config("retinanet"),
        "teacher": str(teacher),
        "teacher_checkpoint": str(tmp_path / "teacher.pth"),
        "distiller": str(tmp_path / "best.json"),
        "inherit": True,
    }
    train = write_config(tmp_path / "train.py", distilled, files, "detkds.distillers")
    log = run("train.py", train, "--work-dir", tmp_path / "work")
    assert "loss_localization" in log
    student = thin_config("retinanet", **{"model.test_cfg.score_thr": 0.0})
    plain = write_config(tmp_path / "plain.py", student, files, imports="math")
    log = run("test.py", plain, tmp_path / "work" / "epoch_1.pth", "--work-dir", tmp_path / "test")
    assert "coco/bbox_mAP" in log
    assert "missing keys" not in log
    assert "unexpected key" not in log
