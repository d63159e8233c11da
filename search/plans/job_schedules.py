"""The schedules of a student's mmdet config: of the full training, and a trial's from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...data.datasets import Config
from ...settings.models import moved
from ...settings.schedules import is_warm_up
from ...space import WrongUse

#: Images that a trial sees in all, at most: those of one epoch on DetKDS's proxy (Section 4.1).
MOST_SEEN = 25_000
#: The loops that are understood, and what each counts.
_LOOPS = {"EpochBasedTrainLoop": "max_epochs", "IterBasedTrainLoop": "max_iters"}


def own_schedule(job: Config, whole: Config, images: int, processes: int) -> dict[str, Any]:
    """The config's schedule as our sections write it; the job's ``train_cfg`` keeps the rest.

    A loop over iterations becomes epochs, the last one whole: at least as many iterations, with the
    learning rate of the same iterations. Its sampler, which never ends, becomes one that does.
    ``images``: those of an epoch, of which each of ``processes`` takes its share. Raises
    :class:`WrongUse` for any other loop.
    """
    loop, loader = job["train_cfg"], job["train_dataloader"]
    kind = str(loop.pop("type", "EpochBasedTrainLoop")).rpartition(".")[2]
    by_epoch = loop.pop("by_epoch", True)
    if kind == "EpochBasedTrainLoop" and not by_epoch:
        kind = "IterBasedTrainLoop"
    length = loop.pop(_LOOPS.get(kind, ""), None)
    if length is None:
        raise WrongUse(
            f"its train_cfg is a {kind} that says no {_LOOPS.get(kind, 'epochs')}: give "
            "dict(type='EpochBasedTrainLoop', max_epochs=…) or "
            "dict(type='IterBasedTrainLoop', max_iters=…)",
            "student",
        )
    batches = loader.get("batch_sampler") or {}
    size = loader.pop("batch_size", None) or batches.pop("batch_size", None) or 1
    if kind == "IterBasedTrainLoop":
        _end_samplers(loader)
        length = _in_epochs(loop, length, math.ceil(images / (size * processes)))
    schedulers = whole.get("param_scheduler") or []
    return {
        "epochs": length,
        "batch_size": size,
        "optim_wrapper": copy.deepcopy(whole["optim_wrapper"]),
        "param_scheduler": [schedulers] if isinstance(schedulers, dict) else list(schedulers),
    }


def _in_epochs(loop: Config, iterations: int, epoch: int) -> int:
    """The epochs of a loop over iterations; when it validates is counted in epochs from then on."""
    for name in ("val_interval", "val_begin"):
        if name in loop:
            loop[name] = max(1, math.ceil(loop[name] / epoch))
    if loop.get("dynamic_intervals"):
        loop["dynamic_intervals"] = [
            tuple(max(1, math.ceil(one / epoch)) for one in pair)
            for pair in loop["dynamic_intervals"]
        ]
    return math.ceil(iterations / epoch)


def _end_samplers(loader: Config) -> None:
    """Let an infinite sampler of mmengine's or mmdet's end with the images."""
    sampler = loader.get("sampler") or {}
    if str(sampler.get("type")).rpartition(".")[2] == "InfiniteSampler":
        loader["sampler"] = {"type": "DefaultSampler", "shuffle": sampler.get("shuffle", True)}


def trial_schedule(schedule: Mapping[str, Any], images: int, before: int) -> dict[str, Any]:
    """A trial's schedule: the training's own, in so many epochs that it sees 25,000 images.

    ``images``: those of a trial's epoch; ``before``: those of the training's. A trial has half of
    the training's epochs at most. What a scheduler counts in iterations keeps its share of them; a
    warm-up takes a tenth of the trial at most, or a short trial would end within it.
    """
    most = max(1, schedule["epochs"] // 2)
    epochs = min(most, math.ceil(MOST_SEEN / max(1, images)))
    size = schedule["batch_size"]
    steps = epochs * math.ceil(images / size)
    steps_before = schedule["epochs"] * math.ceil(before / size)
    schedulers = moved(schedule["param_scheduler"], schedule["epochs"], epochs)
    ends = _shorten_warmups(schedulers, max(1, steps // 10))
    for index, one in enumerate(schedulers):
        if one.get("by_epoch", True) or is_warm_up(one):
            continue
        begin = one.get("begin")
        one = moved([one], steps_before, steps, by_epoch=False)[0]
        schedulers[index] = {**one, "begin": ends[begin]} if begin in ends else one
    return {**copy.deepcopy(dict(schedule)), "epochs": epochs, "param_scheduler": schedulers}


def _shorten_warmups(schedulers: Sequence[Config], most: int) -> dict[int, int]:
    """Let warm-ups that are counted in iterations end in time; their ends before and now."""
    ends = {}
    for one in schedulers:
        if not one.get("by_epoch", True) and is_warm_up(one):
            before = one["end"]
            ends[before] = one["end"] = min(before, most)
    return ends
