"""One training on mmengine's Runner, for trials and full trainings alike."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.loading import CocoDataset, quiet
from ..detectors import register
from ..detectors.checkpoints import allow_runner_resume
from ..distillers import DistillationHook
from ..settings import Schedule
from .resuming import RESUME, Loop, ResumeHook, Sampler


class HostAndDevice(TypedDict):
    """Where work runs, as an outcome has it."""

    host: str
    device: str


def host_and_device() -> HostAndDevice:
    """The names of this host and of the device that trains here, as an outcome has them."""
    return {"host": socket.gethostname(), "device": get_device()}


class _Runner(Runner):
    """mmengine's runner without its slow start, which logs to its file only.

    mmengine's runner starts subprocesses to report on compilers and cards, writes its config, which
    is empty here, to a file, and logs to the console.
    """

    def _log_env(self, env_cfg: dict) -> None:
        pass

    def dump_config(self) -> None:
        pass

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in list(logger.handlers):
            if not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
        return logger


class ProgressHook(Hook):
    """Calls ``report(iterations done, iterations in all)`` about once a second."""

    priority = "VERY_LOW"

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report
        self.last = 0.0

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        done = runner.iter + 1
        if time.monotonic() - self.last > 1 or done == runner.max_iters:
            self.last = time.monotonic()
            self.report(done, runner.max_iters)


def fit(
    model: nn.Module,
    train_set: CocoDataset,
    schedule: Schedule,
    work_dir: Path,
    *,
    seed: int,
    metric: Any = None,
    val_set: CocoDataset | None = None,
    hooks: list[Hook] | None = None,
    resumes: bool = False,
    num_workers: int = 0,
) -> dict[str, float]:
    """Train ``model`` and score it at the end.

    With ``resumes``, the training writes a log and its state to ``work_dir``; a state that is there
    already is of a killed training, which goes on from its epoch and iteration. Without
    ``resumes``, nothing is written. Returns the metrics of :func:`score`; without a validation set,
    no metrics.
    """
    register()
    state = work_dir / RESUME
    own = [DistillationHook(), *([ResumeHook()] if resumes else [])]
    log = {
        "logger": {"type": "LoggerHook", "interval": 50} if resumes else None,
        "timer": {"type": "IterTimerHook"} if resumes else None,
    }
    with quiet(), allow_runner_resume():
        runner = _Runner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=_loader(train_set, schedule.batch_size, num_workers, seed),
            train_cfg={"type": Loop, "max_epochs": schedule.epochs},
            optim_wrapper=json.loads(json.dumps(schedule.optim_wrapper)),
            param_scheduler=json.loads(json.dumps(schedule.param_scheduler)) or None,
            default_hooks={"checkpoint": None, **log},
            custom_hooks=[*own, *(hooks or [])],
            load_from=str(state) if resumes and state.is_file() else None,
            resume=resumes and state.is_file(),
            randomness={"seed": seed},
            log_level="INFO" if resumes else "ERROR",
            experiment_name=f"detkds_{os.getpid()}_{time.monotonic_ns()}",
            default_scope="mmdet",
        )
        try:
            runner.train()
        finally:
            _forget(runner)
    if val_set is None:
        return {}
    return score(model, val_set, metric, schedule.batch_size, num_workers)


def score(
    model: Any,
    dataset: CocoDataset | Subset,
    metric: Any,
    batch_size: int = 8,
    num_workers: int = 0,
) -> dict[str, float]:
    """COCO's metrics of a trained model on a data set, by name ("bbox_mAP", ...).

    The values lie in [0, 1]; a value is -1 where COCO has nothing to measure. A model that finds no
    object has no metrics.
    """
    register()
    if not MMLogger.check_instance_created("detkds_score"):
        MMLogger.get_instance("detkds_score", log_level="ERROR")  # the metric's own tables
    evaluator = Evaluator(metric)
    model = model.to(get_device()).eval()
    with torch.no_grad(), quiet():
        for raw in _loader(dataset, batch_size, num_workers):
            evaluator.process(model.val_step(raw), raw)
        found = evaluator.evaluate(len(dataset))
    return {name.removeprefix("coco/"): float(value) for name, value in found.items()}


def _loader(
    dataset: CocoDataset | Subset, batch_size: int, num_workers: int, seed: int | None = None
) -> DataLoader:
    """A loader that shuffles the images by ``seed``; without a seed, they come in order."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=Sampler(dataset, shuffle=seed is not None, seed=seed),
        collate_fn=pseudo_collate,
        num_workers=num_workers,
        pin_memory=num_workers > 0 and torch.cuda.is_available(),
    )


def _forget(runner: Runner) -> None:
    """Drop the runner's logger, hub, scope and visualizer, which mmengine would keep for ever."""
    name = runner.experiment_name
    for handler in list(runner.logger.handlers):
        handler.close()
        runner.logger.removeHandler(handler)
    runner.visualizer.close()
    for manager in (MMLogger, MessageHub, Visualizer, DefaultScope):
        for key in [k for k in manager._instance_dict if k.startswith(name)]:
            del manager._instance_dict[key]
    logging.root.manager.loggerDict.pop(runner.logger.name, None)
