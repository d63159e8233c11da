"""One run of the tabular benchmark: a trial scored after every epoch, or a full training."""

from __future__ import annotations

import itertools
import tempfile
import time
import traceback
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detkds.settings import Schedule, Task
from detkds.space import SHARE, Distiller, SearchSpace, Status, Term
from detkds.workers.filter import measure
from detkds.workers.rejection import Rejected, RejectionHook
from detkds.workers.resuming import random_states, set_random_states
from detkds.workers.runner import score
from detkds.workers.student import Inputs, build_student, train_student
from detkds.workers.trial import TrialContext
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from table_rows import Run, Scores, form_of
from torch.utils.data import DataLoader


def filtered(context: TrialContext, distiller: Distiller) -> Run:
    """What the filter finds: why it rejects a distiller, or its scores without a training."""
    try:
        return Run(Status.COMPLETED, metrics=measure(context.batch, distiller).metrics)
    except Rejected as rejected:
        return Run(Status.REJECTED, reason=str(rejected))


def gradient_sizes(context: TrialContext, space: SearchSpace) -> dict[str, float]:
    """The size of each term's gradient in the student's maps, in shares of the detection loss's.

    At weight 1, by :func:`form_of`, for all terms of the space but those that no weight gives a
    share. A weight in shares is the plain weight times the size.
    """
    forms = {
        knowledge: [
            replace(space.decode(knowledge, [*choices, 1.0]), unit=SHARE)
            for choices in itertools.product(*space.slots(knowledge)[:-1])
        ]
        for knowledge in space.knowledge
    }
    found: dict[str, float] = {}
    for terms in itertools.zip_longest(*forms.values()):  # kinds share the student's forward
        together = tuple(term for term in terms if term is not None)
        weights = _plain_weights(context, together)
        if weights is None:
            alone = [_plain_weights(context, (term,)) or {} for term in together]
            weights = {name: value for one in alone for name, value in one.items()}
        known = (term for term in together if term.knowledge in weights)
        found |= {form_of(term): 1 / weights[term.knowledge] for term in known}
    return found


def _plain_weights(context: TrialContext, terms: tuple[Term, ...]) -> dict[str, float] | None:
    """The plain weights of terms in shares, by knowledge; None if a share has none."""
    try:
        plain = measure(context.batch, Distiller(terms), filtered=False).distiller
    except Rejected:
        return None
    return {term.knowledge: term.weight for term in plain.terms}


def run(
    task: Task,
    inputs: Inputs,
    distiller: Distiller,
    schedule: Schedule,
    seed: int,
    warmup: str | None = None,
    every_epoch: bool = True,
) -> Run:
    """Train the student with a distiller and score it after every epoch, or after the last.

    The scores are those that trials and full trainings have. ``warmup``: the weights to start from.
    """
    clock, cpu = time.perf_counter(), time.process_time()
    hook = EpochScores(inputs, schedule.batch_size, every_epoch)
    unscored = copy(inputs)
    unscored.val_set = unscored.metric = None
    status, reason = Status.COMPLETED, None
    try:
        student = build_student(task.student, seed, warmup)
        with tempfile.TemporaryDirectory(prefix="detkds-table-") as folder:
            train_student(
                student,
                unscored,
                distiller,
                task.data,
                schedule,
                Path(folder),
                seed=seed,
                inherit=task.inherit,
                hooks=[RejectionHook(), hook],
            )
    except Rejected as rejection:
        status, reason = Status.REJECTED, str(rejection)
    except Exception:
        status, reason = Status.FAILED, traceback.format_exc()
    epochs = hook.scores if status is Status.COMPLETED else []
    spent = time.process_time() - cpu, time.perf_counter() - clock
    return Run(status, epochs, reason, *spent)


class EpochScores(Hook):
    """Scores the student after every epoch, or after the last.

    The training goes on with the random numbers that would have come next.
    """

    priority = "VERY_LOW"

    def __init__(self, inputs: Inputs, batch_size: int, every_epoch: bool) -> None:
        self.inputs, self.batch_size, self.every_epoch = inputs, batch_size, every_epoch
        self.scores: list[Scores] = []
        self._spent, self._since = 0.0, 0.0

    def before_train(self, runner: Runner) -> None:
        self._since = time.process_time()

    def after_train_epoch(self, runner: Runner) -> None:
        trained = time.process_time()
        self._spent += trained - self._since
        if self.every_epoch or runner.epoch + 1 == runner.max_epochs:
            states = random_states()
            self.scores.append(self._measured(runner.model, trained))
            runner.model.train()
            set_random_states(states)
        self._since = time.process_time()

    def _measured(self, model: Any, since: float) -> Scores:
        found = score(model, self.inputs.val_set, self.inputs.metric, self.batch_size)
        scored = time.process_time()
        images, size = self.inputs.val_set, self.batch_size
        return Scores(
            # mmdet gives no metrics for a student that finds no object: its AP is 0.
            ap=found.get("bbox_mAP", 0.0),
            ap50=found.get("bbox_mAP_50", 0.0),
            ap75=found.get("bbox_mAP_75", 0.0),
            loss=detection_loss(model.student, images, size, as_in_training=False),
            batch_loss=detection_loss(model.student, images, size, as_in_training=True),
            training=self._spent,
            scoring=scored - since,
        )


@torch.no_grad()
def detection_loss(student: Any, images: Any, batch_size: int, as_in_training: bool) -> float:
    """The sum of a student's own losses, without a teacher: the mean over the images' batches.

    ``as_in_training``: batch normalisation has the statistics of each batch, not its running ones,
    which it keeps as they are. The two losses differ by much where a head has one normalisation for
    maps of several levels. Batches count by their images.
    """
    student = student.to(get_device()).train(as_in_training)
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}
    total = 0.0
    for raw in DataLoader(images, batch_size, collate_fn=pseudo_collate):
        batch = student.data_preprocessor(raw, False)
        losses = student.loss(batch["inputs"], batch["data_samples"])
        total += float(student.parse_losses(losses)[0]) * len(batch["data_samples"])
    for name, buffer in student.named_buffers():
        buffer.copy_(buffers[name])
    return total / len(images)
