"""Two mmdet configs on the command line: no section of ours is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from detkds.cli import main
from detkds.data import ShapesFiles, make_shapes
from mmengine.config import Config
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
