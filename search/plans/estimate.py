"""How much work a whole search is, stage by stage, final trainings included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...data import read_document
from ...settings import PROGRESSIVE, Confirm, Split
from ...workers.steps import ALONE, SCORING, TEACHER
from ..controller import Controller
from .plan import Plan
from .schedules import Scheduled
from .start import start_distillers


@dataclass(frozen=True)
class Work:
    """Trainings of one stage that may run side by side.

    ``images``: those that an epoch shows; ``scored``: those that each training is scored on.
    ``kind``: what a step of them is, by the name that :mod:`~detkds.workers.steps` gives it; None:
    distillation of any kind.
    """

    stage: str
    trainings: int
    epochs: int
    images: int
    scored: int = 0
    kind: str | None = None

    @property
    def shown(self) -> int:
        """Images that all trainings show to their models."""
        return self.trainings * self.epochs * self.images

    def hours(self, seconds: Mapping[str, float], side_by_side: int) -> float:
        """``seconds``: of an image, by the kind of step. Distillation has the mean of its kinds."""
        others = [value for kind, value in seconds.items() if kind not in (TEACHER, ALONE, SCORING)]
        step = sum(others) / len(others) if others else seconds[ALONE]
        one = self.epochs * self.images * (seconds[self.kind] if self.kind else step)
        one += self.scored * seconds[SCORING]
        return math.ceil(self.trainings / min(side_by_side, self.trainings)) * one / 3600


def whole_work(plan: Plan) -> list[Work]:
    """All stages of a search, at most: early stops and rejections make it less."""
    config = plan.config
    by_section = {one.section: one for one in plan.schedules}
    start = start_distillers(config.search.start, plan.space, store=None)
    trials = Controller(plan.space, config.search, plan.seed, start).planned
    proxy = _images(plan.proxy[1], config.proxy.val_images)
    tested = _images(plan.test, config.data.synthetic.test if config.data.synthetic else 0)
    found: list[Work] = []

    def add(
        stage: str, section: str, trainings: int, scored: int = 0, kind: str | None = None
    ) -> None:
        one: Scheduled = by_section[section]
        if trainings:
            length = one.schedule.epochs, one.images
            found.append(Work(stage, trainings, *length, scored=scored, kind=kind))

    if plan.teacher is not None:
        add("teacher", "teacher.schedule", 1, kind=TEACHER)
    if plan.warmup is not None:
        add("warm-up", "trial.warmup", 1, kind=ALONE)
    add("trials", "trial", trials, proxy)
    if config.confirm is not None:
        add("confirmation", "confirm", confirmations(config.confirm, len(start)), proxy)
    if config.final is not None:
        seeds, rows = len(config.final.seeds), dict(plan.compare)
        along = rows.pop(PROGRESSIVE, 0) is None
        alone = "none" in rows
        add("student alone", "final", seeds * (alone or along), tested, ALONE)
        add("final trainings", "final", seeds * (len(rows) - alone + along), tested)
    return found


def confirmations(confirm: Confirm, start: int) -> int:
    """Trainings of the confirmation at most; ``start``: how many distillers a search starts from.

    The best preset and the student alone contend besides the best trials.
    """
    field, total = confirm.candidates + min(2, start), 0
    for _ in range(confirm.rounds):
        total += field * confirm.seeds
        field = math.ceil(field / 2) + (start > 1)
    return total


def in_words(work: list[Work]) -> list[str]:
    """A line a stage: how many trainings, how long, and their share of all images shown."""
    whole = sum(one.shown for one in work)
    return [
        f"{one.stage}: {one.trainings} x {one.epochs} epochs of {one.images} images, "
        f"{one.shown / whole:.0%} of all"
        for one in work
    ]


def _images(split: Split | None, drawn: int) -> int:
    """The images of a split; ``drawn``: of one whose file is not written yet."""
    if split is None or drawn:
        return drawn
    return len(read_document(split)["images"])
