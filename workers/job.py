"""The job: mmengine's config of one training, whatever said it, sections or a user's mmdet config.

A worker gets plain data: a model, teachers, the section ``data``, splits, a schedule, and ``job``,
which is what the user's own config says besides. :func:`make_job` puts these together, and
:func:`scheduled` the schedule with them. What comes out is what mmengine's Runner takes; models are
built apart, since a trial's teacher outlives the trial.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from ..data.datasets import Config, cached, views, with_files
from ..data.loading import dataset_config, metric_config
from ..settings import Data, Schedule, Split
from .curves import AP

#: The default hooks that show a training, or keep what it leaves. A trial has none of them.
SHOWING = ("checkpoint", "logger", "timer", "visualization")
#: Those of them that mmengine adds if nobody takes them out.
_OF_MMENGINE = ("checkpoint", "logger", "timer")
#: What a full training shows and keeps if nobody says otherwise.
SHOWN = {
    "checkpoint": None,
    "logger": {"type": "LoggerHook", "interval": 50},
    "timer": {"type": "IterTimerHook"},
}
#: The hook of a training that keeps no epoch's state but the best one's, besides the last.
_KEEPS_NONE = {"type": "CheckpointHook", "interval": -1, "save_last": False}
#: mmengine's own, for hooks that don't say.
_KEEPS_ALL = {"type": "CheckpointHook", "interval": 1}
#: What says, in a ``train_cfg``, when a training is validated.
_WHEN = ("val_interval", "val_begin", "dynamic_intervals")
#: Hooks that leave a data set as it is: others may change its pipeline while it is used.
_HARMLESS = {
    *("EMAHook", "NumClassCheckHook", "CheckInvalidLossHook", "EmptyCacheHook"),
    *("SyncBuffersHook", "SyncNormHook", "SetEpochInfoHook", "DistillationHook"),
}


def make_job(
    own: Mapping[str, Any],
    data: Data,
    train: Split,
    val: Split | None,
    *,
    masks: bool = False,
    full: bool = False,
) -> Config:
    """A training's whole config but for models and schedule.

    ``own``: the section ``job``. Its loaders stay as they are but for the files of ``train`` and
    ``val``; without a ``train_dataloader``, the section ``data`` says how detectors see the images.
    ``masks``: whether the student has a mask head, for ``data`` to load outlines.

    ``full``: a full training shows and keeps what its hooks say, and has the validation that the
    job's ``val_cfg`` asks for. A trial has neither: it is scored once, by COCO's metrics on
    ``val``, and keeps decoded images from trial to trial (:func:`~detkds.data.datasets.cached`), if
    they are decoded in its own process.
    """
    job = copy.deepcopy(dict(own))
    if val is not None:
        give_scored(job, data, val, masks=masks, full=full)
    if "train_dataloader" in job:
        _give_files(job, "train_dataloader", train, data.cache_megabytes, full)
    else:
        job["train_dataloader"] = _loader(data, train, training=True, masks=masks)
    hooks = dict(job.get("default_hooks") or {})
    if not full:
        for name in ("val_cfg", "visualizer", "log_processor", "log_level"):
            job.pop(name, None)
        hooks = {name: hook for name, hook in hooks.items() if name not in SHOWING}
        hooks.update(dict.fromkeys(_OF_MMENGINE))
    elif "default_hooks" not in job:
        hooks = dict(SHOWN)
    job["default_hooks"] = hooks
    if val is None:
        for name in ("val_dataloader", "val_evaluator", "val_cfg"):
            job.pop(name, None)
    return job


def give_scored(
    job: Config, data: Data, split: Split, *, masks: bool = False, full: bool = False
) -> None:
    """Let a job be scored on a split: see :func:`make_job`. No other split is read."""
    if "train_dataloader" in job:
        _give_files(job, "val_dataloader", split, data.cache_megabytes, full)
    else:
        job["val_dataloader"] = _loader(data, split, training=False, masks=False)
    if not (full and "val_evaluator" in job):
        job["val_evaluator"] = metric_config(split, masks=masks)


def with_validation(own: Mapping[str, Any], interval: int | None, save_best: bool | None) -> Config:
    """The section ``job`` with a validation after every so many epochs, and the best student kept.

    ``interval`` and ``save_best``: None leaves what the job says.
    """
    job = copy.deepcopy(dict(own))
    if interval is not None:
        loop = {k: v for k, v in (job.get("train_cfg") or {}).items() if k not in _WHEN}
        job["train_cfg"] = {**loop, "val_interval": interval}
        job.setdefault("val_cfg", {"type": "ValLoop"})
    if save_best is not None:
        hooks = job["default_hooks"] = dict(job.get("default_hooks", SHOWN) or {})
        kept = dict(hooks.get("checkpoint", _KEEPS_ALL) or _KEEPS_NONE)
        for name in ("save_best", "rule"):
            kept.pop(name, None)
        best = {"save_best": AP, "rule": "greater"} if save_best else {}
        hooks["checkpoint"] = {**kept, **best}
    return job


def saves_best(job: Mapping[str, Any]) -> bool:
    """Whether a full training of the job keeps the student of the best epoch."""
    hook = (job.get("default_hooks") or {}).get("checkpoint") or {}
    return bool(job.get("val_cfg") and hook.get("save_best"))


def _give_files(job: Config, name: str, split: Split, megabytes: int, full: bool) -> None:
    """Let a loader of the job read a split; in a trial, keep decoded images."""
    loader = job[name]
    loader["dataset"] = with_files(loader["dataset"], split, f"{name}.dataset")
    if loader.setdefault("num_workers", 0):
        return
    for only_with_workers in ("persistent_workers", "prefetch_factor", "timeout"):
        loader.pop(only_with_workers, None)
    if not full:
        loader["dataset"] = cached(loader["dataset"], megabytes)


def _loader(data: Data, split: Split, *, training: bool, masks: bool) -> Config:
    """A loader of the section ``data``; the schedule sets its batch size.

    A batch for training has portraits or landscapes, as mmdet's own: in a mixed batch a third of
    all pixels is padding. Where all images have one orientation, batches are as without.
    """
    return {
        "num_workers": data.num_workers,
        "sampler": {"type": "DefaultSampler", "shuffle": training},
        **({"batch_sampler": {"type": "AspectRatioBatchSampler"}} if training else {}),
        "dataset": dataset_config(split, data, training=training, masks=masks),
        "worker_init_fn": {"type": "seeds_of_the_loader"},
    }


def scheduled(made: Mapping[str, Any], schedule: Schedule) -> Config:
    """The job that :func:`make_job` made, with epochs, batch size, optimizer and schedulers."""
    job: Config = copy.deepcopy(dict(made))
    job["train_dataloader"]["batch_size"] = schedule.batch_size
    if "val_dataloader" in job:
        job["val_dataloader"].setdefault("batch_size", schedule.batch_size)
    job["train_cfg"] = {
        "type": "EpochBasedTrainLoop",
        **(job.get("train_cfg") or {}),
        "max_epochs": schedule.epochs,
    }
    # mmengine writes into what it gets.
    job["optim_wrapper"] = json.loads(json.dumps(schedule.optim_wrapper))
    job["param_scheduler"] = json.loads(json.dumps(schedule.param_scheduler)) or None
    job.setdefault("default_scope", "mmdet")
    return job


def remembered_sizes(job: Mapping[str, Any], student: Mapping[str, Any]) -> int | None:
    """In how many sizes a teacher may remember an image of the job; None: it must see each draw.

    ``student``: the student's config. Its preprocessor may resize whole batches, and hooks may
    change a pipeline: then nothing is remembered. See :func:`~detkds.data.datasets.views`.
    """
    if (student.get("data_preprocessor") or {}).get("batch_augments"):
        return None
    kinds = {str(hook.get("type")).rpartition(".")[2] for hook in job.get("custom_hooks") or ()}
    return views(job["train_dataloader"]["dataset"]) if kinds <= _HARMLESS else None
