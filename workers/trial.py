"""A trial: one candidate scored by a short training on the proxy. No Ray, no database."""

from __future__ import annotations

import math
import tempfile
import time
import traceback
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Subset

from ..settings import Split, Task, TrialSchedule
from ..space import Candidate, Distiller, Outcome, Status
from .filter import measure
from .job import scheduled
from .leftovers import temporary
from .progress import ProgressFile, running_folder
from .rejection import Rejected, RejectionHook
from .resuming import random_states, set_random_states
from .runner import averaged, host_and_device, score
from .scalars import Scalars, scalars_folder
from .stored_batch import StoredBatch, store_batch
from .student import SCORE, Inputs, build_inputs, build_student, train_student

#: A trial is scored early on every so many validation images. A check that takes as long as the
#: final score would cost half of what it saves.
EARLY_EVERY = 3


class Stopped(Exception):
    """Ends a trial that can't reach the top; the message says why."""


class EarlyCheck(Hook):
    """Scores the student once, after half of the iterations, and ends a trial below ``bar``.

    A trial that goes on does so with the random numbers that would have come next: its score is
    the same with and without the check. A training of one iteration is not checked.
    """

    priority = "VERY_LOW"

    def __init__(self, context: TrialContext, bar: float) -> None:
        self.context, self.bar = context, bar
        #: The AP at the check, in [0, 1]; None before the check.
        self.score: float | None = None

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if not runner.iter + 1 == math.ceil(runner.max_iters / 2) < runner.max_iters:
            return
        states = random_states()
        with averaged(runner):
            self.score = self._measured(runner.model)
        if self.score < self.bar:
            raise Stopped(
                f"stopped halfway with an AP of {self.score:.4f}, below {self.bar:.4f}, from which "
                "it could still reach the top"
            )
        runner.model.train()
        set_random_states(states)

    def _measured(self, model: nn.Module) -> float:
        """The AP on a part of the validation images, the same for all trials."""
        context = self.context
        loader = scheduled(context.job, context.schedule)["val_dataloader"]
        part = range(0, len(context.val_set), EARLY_EVERY)
        metric = copy(context.metric)
        metric.results, metric.img_ids = (
            [],
            [context.val_set.get_data_info(i)["img_id"] for i in part],
        )
        images = Subset(context.val_set, part)
        found = score(model, images, metric, loader["batch_size"], loader["num_workers"])
        return found.get(SCORE, 0.0)


@dataclass(kw_only=True)
class TrialContext(Inputs):
    """What stays between trials: teacher, parsed annotations, decoded images, schedule, batch.

    ``warmup``: the file of the weights that every student starts from, or None. ``filtered``:
    whether the filter tries a candidate before a student is trained. ``folder``: the work folder,
    in which the trials of the search ``name`` show how they go; None: they show nothing. Build one
    context per process with :meth:`build`.
    """

    task: Task
    schedule: TrialSchedule
    seed: int
    warmup: str | None
    filtered: bool = True
    folder: Path | None = None
    name: str = "search"

    @classmethod
    def build(
        cls,
        task: Task,
        schedule: TrialSchedule,
        proxy: tuple[Split, Split],
        *,
        seed: int,
        warmup: str | None = None,
        filtered: bool = True,
        folder: Path | None = None,
        name: str = "search",
    ) -> TrialContext:
        """The context of all trials with one task. ``proxy``: training and validation split."""
        torch.set_num_threads(task.threads)
        inputs = build_inputs(
            task.student, [task.teacher] if task.teacher else [], task.data, *proxy, task.job
        )
        return cls(
            **vars(inputs),
            task=task,
            schedule=schedule,
            seed=seed,
            warmup=warmup,
            filtered=filtered,
            folder=folder,
            name=name,
        )

    def shown_by(self, candidate: Candidate | Distiller | None) -> list[ProgressFile | Scalars]:
        """The hooks that show how a candidate's trial goes; each has to be told its end."""
        if self.folder is None or not isinstance(candidate, Candidate):
            return []
        progress = ProgressFile(running_folder(self.folder, self.name), candidate.number)
        backends = self.schedule.vis_backends
        if not backends:
            return [progress]
        folder = scalars_folder(self.folder, self.name, candidate)
        return [progress, Scalars(backends, folder, self.name, candidate)]

    @cached_property
    def batch(self) -> StoredBatch:
        """The batch that candidates are tried on, made once, where the trials run."""
        size = self.schedule.batch_size
        return store_batch(self, self.task, size, seed=self.seed, warmup=self.warmup)


def evaluate(context: TrialContext, candidate: Candidate | Distiller | None) -> Outcome:
    """Train the student with the candidate on the proxy and score it: box AP in [0, 1].

    ``None`` scores the student alone. A candidate that the filter rejects, or with a loss in
    training that is NaN, infinite or above 100, gives a rejected outcome; a candidate below its
    ``early_bar`` halfway a stopped outcome; an exception, also of the filter, a failed outcome with
    the traceback, and an AP that is NaN or infinite a failed outcome. No file is left. The score is
    the same with and without the filter.
    """
    started = time.perf_counter()
    distiller = candidate.distiller if isinstance(candidate, Candidate) else candidate
    bar = candidate.early_bar if isinstance(candidate, Candidate) else None
    check = None if bar is None else EarlyCheck(context, bar)
    shown = context.shown_by(candidate)
    detail: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    try:
        if distiller is not None and distiller.active and (context.filtered or distiller.in_shares):
            measured = measure(context.batch, distiller, filtered=context.filtered)
            distiller, metrics = measured.distiller, measured.metrics
        metrics = {**_train(context, distiller, check, shown), **metrics}
        status = Status.COMPLETED
        # mmdet gives no metrics for a student that finds no object: its AP is 0.
        detail["score"] = metrics.get(SCORE, 0.0)
    except Stopped as stop:
        status, detail["reason"] = Status.STOPPED, str(stop)
    except Rejected as rejection:
        status, detail["reason"] = Status.REJECTED, str(rejection)
    except Exception:
        status, detail["error"] = Status.FAILED, traceback.format_exc()
    outcome = Outcome(
        status,
        metrics=metrics,
        early_score=check and check.score,
        seconds=time.perf_counter() - started,
        **host_and_device(),
        **detail,
    ).checked()
    for hook in shown:
        hook.end(outcome)
    return outcome


def _train(
    context: TrialContext,
    distiller: Distiller | None,
    check: EarlyCheck | None,
    shown: Sequence[Hook],
) -> dict[str, float]:
    hooks: list[Hook] = [RejectionHook(), *shown, *([] if check is None else [check])]
    student = build_student(context.task.student, context.seed, context.warmup)
    with tempfile.TemporaryDirectory(prefix=temporary("trial")) as folder:
        return train_student(
            student,
            context,
            distiller,
            context.task.data,
            context.schedule,
            Path(folder),
            seed=context.seed,
            inherit=context.task.inherit,
            hooks=hooks,
        )
