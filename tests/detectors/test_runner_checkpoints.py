"""Checkpoints of mmengine's Runner load with all their values, and the Runner resumes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detkds.detectors.checkpoints import allow_runner_resume, load_checkpoint
from detkds.space import WrongUse
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn


@MODELS.register_module()
class CheckpointModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor, mode: str = "tensor") -> Any:
        out = self.layer(x)
        return {"loss": (out - x.sum(1, keepdim=True)).pow(2).mean()} if mode == "loss" else [out]


@DATASETS.register_module()
class CheckpointData(torch.utils.data.Dataset):
    metainfo = {"classes": ("a", "b"), "palette": np.array([[1, 2, 3], [4, 5, 6]])}  # noqa: RUF012

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([index / 8, index % 3])}


@METRICS.register_module()
class CheckpointMetric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(float(sample.mean()) for sample in data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, Any]:
        return {"score": np.float64(np.mean(results))}


def runner(work_dir: Path, epochs: int, **options: Any) -> Runner:
    loader = {
        "dataset": {"type": "CheckpointData"},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
        "batch_size": 4,
        "num_workers": 0,
    }
    config = {
        "model": {"type": "CheckpointModel"},
        "work_dir": str(work_dir),
        "train_dataloader": loader,
        "val_dataloader": loader,
        "val_evaluator": {"type": "CheckpointMetric"},
        "train_cfg": {"by_epoch": True, "max_epochs": epochs},
        "val_cfg": {},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 3},
            {"type": "MultiStepLR", "milestones": [2, 3], "by_epoch": True, "end": 9},
        ],
        "default_hooks": {
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 1,
                "save_best": "score",
                "rule": "greater",
            }
        },
        "custom_hooks": [{"type": "EMAHook"}],
        "experiment_name": f"{work_dir.name}_{epochs}_{len(options)}",
        "randomness": {"seed": 0},
        "log_level": "ERROR",
        **options,
    }
    return Runner.from_cfg(Config(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a training of two epochs, with a checkpoint for each."""
    folder = tmp_path_factory.mktemp("trained")
    runner(folder, 2).train()
    return folder


def test_a_runners_checkpoint_loads_with_all_its_values(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "epoch_2.pth")
    plain = torch.load(trained / "epoch_2.pth", weights_only=False)
    assert checkpoint.keys() == plain.keys() >= {"optimizer", "param_schedulers", "message_hub"}
    assert checkpoint["meta"]["cfg"] == plain["meta"]["cfg"]
    assert checkpoint["param_schedulers"] == plain["param_schedulers"]
    for name, weight in plain["state_dict"].items():
        torch.testing.assert_close(checkpoint["state_dict"][name], weight, rtol=0, atol=0)
    best = checkpoint["message_hub"]["runtime_info"]["best_score"]
    assert best == plain["message_hub"]["runtime_info"]["best_score"]
    palette = checkpoint["meta"]["dataset_meta"]["palette"]
    assert type(palette) is np.ndarray
    np.testing.assert_array_equal(palette, CheckpointData.metainfo["palette"])


def test_log_histories_load_as_mmengines_class(trained: Path) -> None:
    restored = load_checkpoint(trained / "epoch_2.pth")["message_hub"]["log_scalars"]
    plain = torch.load(trained / "epoch_2.pth", weights_only=False)["message_hub"]["log_scalars"]
    assert restored.keys() == plain.keys() >= {"train/loss"}
    history = restored["train/loss"]
    assert type(history) is HistoryBuffer
    assert len(history.data[0]) == 4
    for got, expected in zip(history.data, plain["train/loss"].data, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert history.mean(2) == plain["train/loss"].mean(2)
    assert history.statistics("current") == history.current()


def test_globals_that_the_process_allows_torch_stay_allowed(trained: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([HistoryBuffer])
    try:
        load_checkpoint(trained / "epoch_1.pth")
        assert set(torch.serialization.get_safe_globals()) == {*before, HistoryBuffer}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_run(
    tmp_path: Path, trained: Path
) -> None:
    unbroken = runner(tmp_path / "unbroken", 4)
    unbroken.train()
    resumed = runner(trained, 4, resume=True)
    with allow_runner_resume():
        resumed.train()
    assert resumed.iter == unbroken.iter == 8
    for name, weight in unbroken.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight)
    losses = resumed.message_hub.get_scalar("train/loss").data[0]
    np.testing.assert_allclose(losses, unbroken.message_hub.get_scalar("train/loss").data[0])
    again = load_checkpoint(trained / "epoch_4.pth")
    assert len(again["message_hub"]["log_scalars"]["train/loss"].data[0]) == 8
    plain = torch.load(trained / "epoch_4.pth", weights_only=False)
    assert type(plain["message_hub"]["log_scalars"]["train/loss"]) is HistoryBuffer


def test_mmengine_loads_as_before_after_the_context() -> None:
    before = dict(CheckpointLoader._schemes)
    with pytest.raises(WrongUse, match=r"missing\.pth"), allow_runner_resume():
        CheckpointLoader.load_checkpoint("missing.pth")
    assert before == CheckpointLoader._schemes


def test_a_configuration_inside_a_checkpoint_is_not_run(tmp_path: Path, trained: Path) -> None:
    marker = tmp_path / "marker"
    checkpoint = torch.load(trained / "epoch_1.pth", weights_only=False)
    checkpoint["meta"]["config"] = f"open({str(marker)!r}, 'w').close()"
    torch.save(checkpoint, tmp_path / "hostile.pth")
    resumed = runner(tmp_path, 1, resume=True, load_from=str(tmp_path / "hostile.pth"))
    with allow_runner_resume():
        resumed.train()
    assert resumed.epoch == 1
    assert not marker.exists()
