"""One training on mmengine's Runner, for trials and full trainings alike."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ..data.loading import quiet
from ..detectors import register
from ..detectors.checkpoints import allow_runner_resume
from ..distillers import DistillationHook
from ..settings.schedules import fitted
from .ranks import first_says, launcher, part_ways, wrapper
from .resuming import RESUME, Loop, ResumeHook, in_batches, random_states, set_random_states


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

    The schedulers of the learning rate are fitted to the training's length (:func:`fitted`).
    """

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """A training that resumes gives the schedulers that it has built already."""
        if all(isinstance(one, Mapping) for one in scheduler):
            scheduler, _ = fitted(scheduler, self.max_epochs, self.max_iters)
        return super().build_param_scheduler(scheduler)

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


class _Validated(Hook):
    """Keeps the metrics of the last validation within a training."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] | None = None

    def before_train_epoch(self, runner: Runner) -> None:
        self.metrics = None  # they are of an older student from now on

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.metrics = metrics


#: The parts of a job that mmengine's Runner takes as they are.
_PASSED = (
    *("train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr", "default_hooks"),
    *("env_cfg", "log_processor", "default_scope"),
)


def fit(
    model: nn.Module,
    job: dict[str, Any],
    train_set: Any,
    work_dir: Path,
    *,
    seed: int,
    metric: Any = None,
    val_set: Any = None,
    hooks: list[Hook] | None = None,
    resumes: bool = False,
) -> dict[str, float]:
    """Train ``model``, whose student was just built, as the job says, and score it at the end.

    Several processes, which have joined torch's process group and all call this function, share the
    training: each takes batches of its own and the mean of all gradients.

    ``job``: as :func:`~detkds.workers.job.scheduled` gives it. ``train_set`` and ``val_set``, both
    built, take the places of its data sets, ``metric`` that of its evaluator. With a ``val_cfg``,
    mmengine validates within the training.

    With ``resumes``, the training writes a log and its state to ``work_dir``; a state that is there
    already is of a killed training, which goes on from its epoch and iteration. Without
    ``resumes``, nothing is written. Returns the metrics of :func:`score`; without a validation set,
    no metrics. An average of weights (``EMAHook``) stands in the model's place from then on.
    """
    register()
    state = work_dir / RESUME
    going_on = first_says(lambda: resumes and state.is_file())
    validated = _Validated()
    own = [DistillationHook(), validated, *([ResumeHook()] if resumes else [])]
    name = f"detkds_{os.getpid()}_{time.monotonic_ns()}"
    options = {part: job[part] for part in _PASSED if job.get(part) is not None}
    options["train_cfg"] = {**job["train_cfg"], "type": Loop}
    if job.get("visualizer"):
        options["visualizer"] = {**job["visualizer"], "name": name}
    if job.get("val_cfg") is not None:
        options["val_cfg"] = job["val_cfg"]
        options["val_dataloader"] = {**job["val_dataloader"], "dataset": val_set}
        options["val_evaluator"] = _evaluator(metric)
    # The student's first weights have drawn numbers, as in mmdet's own script.
    states = random_states()
    with quiet(), allow_runner_resume():
        runner = _Runner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=in_batches(job["train_dataloader"], train_set),
            custom_hooks=[*own, *(hooks or []), *(job.get("custom_hooks") or ())],
            load_from=str(state) if going_on else None,
            resume=going_on,
            launcher=launcher(),
            cfg=wrapper(job),
            randomness={**(job.get("randomness") or {}), "seed": seed},
            log_level=job.get("log_level", "INFO") if resumes else "ERROR",
            experiment_name=name,
            **options,
        )
        set_random_states(states)
        part_ways(seed)
        try:
            runner.train()
            if runner.val_loop is not None and validated.metrics is None:
                runner.val_loop.run()  # it was killed after its last epoch
        finally:
            _forget(runner)
        _average(runner)
    if validated.metrics is not None:
        return _named(validated.metrics)
    if val_set is None:
        return {}
    loader = job["val_dataloader"]
    return score(model, val_set, metric, loader["batch_size"], loader["num_workers"])


def _average(runner: Runner) -> None:
    """Put the average of the weights, if a hook keeps one, in the model's place, or back."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_val_epoch(runner)


@contextmanager
def averaged(runner: Runner) -> Iterator[None]:
    """Inside of the ``with``, the model has the average of its weights, if a hook keeps one."""
    _average(runner)
    yield
    _average(runner)


def score(
    model: Any,
    dataset: Any,
    metric: Any,
    batch_size: int = 8,
    num_workers: int = 0,
) -> dict[str, float]:
    """COCO's metrics of a trained model on a data set, by name ("bbox_mAP", ...).

    Several processes share the images; each returns the metrics of all.

    The values lie in [0, 1]; a value is -1 where COCO has nothing to measure. A model that finds no
    object has no metrics.
    """
    register()
    if not MMLogger.check_instance_created("detkds_score"):
        MMLogger.get_instance("detkds_score", log_level="ERROR")  # the metric's own tables
    evaluator = _evaluator(metric)
    loader: DataLoader = DataLoader(
        dataset,
        batch_size,
        sampler=DefaultSampler(dataset, shuffle=False),
        collate_fn=pseudo_collate,
        num_workers=num_workers,
        pin_memory=num_workers > 0 and torch.cuda.is_available(),
    )
    model = model.to(get_device()).eval()
    with torch.no_grad(), quiet():
        for raw in loader:
            evaluator.process(model.val_step(raw), raw)
        found = evaluator.evaluate(len(dataset))
    return _named(found)


def _evaluator(metric: Any) -> Evaluator:
    """The metrics' evaluator. Processes exchange their results without a file.

    mmengine's default are files below the current folder, which machines do not share.
    """
    evaluator = Evaluator(metric)
    if is_distributed():
        for one in evaluator.metrics:
            one.collect_device, one.collect_dir = "gpu", None  # means: by the process group
    return evaluator


def _named(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics by COCO's names, without the prefix that mmdet puts before them."""
    return {name.removeprefix("coco/"): float(value) for name, value in metrics.items()}


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
