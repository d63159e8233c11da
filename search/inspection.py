"""``detkds check``: a whole config tried before the first training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from ..space import Distiller
from ..workers.cluster import per_trial, room
from ..workers.steps import Step, try_steps
from ..workers.tasks import run_job
from .plans.estimate import Work, whole_work
from .plans.plan import Plan
from .plans.trainings import Display, ready


@dataclass(frozen=True)
class Inspected:
    """What a check found: steps as they were tried, stages, and the workers there is room for."""

    steps: list[Step]
    work: list[Work]
    workers: int

    def hours(self, work: Work) -> float:
        return work.hours({step.name: step.seconds for step in self.steps}, self.workers)


def one_of_each_kind(plan: Plan) -> dict[str, Distiller]:
    """A distiller with a single term for each kind of knowledge that is searched."""
    rng = random.Random(plan.seed)
    space = plan.space
    kinds = {knowledge: Distiller((space.random(knowledge, rng),)) for knowledge in space.knowledge}
    # A share has no plain weight before it is measured; a step takes as long under any weight.
    return {name: kind.with_plain_weights({name: 1.0}) for name, kind in kinds.items()}


def inspect(plan: Plan, display: Display) -> Inspected:
    """Try a few steps of each kind on a worker, and estimate the whole.

    Raises :class:`SearchFailed` that names the step which fails. Writes what a search would write
    before its first training.
    """
    resources = plan.config.resources
    with ready(plan, display):
        tried = partial(
            try_steps,
            plan.task,
            plan.config.trial,
            plan.proxy,
            one_of_each_kind(plan),
            plan.teacher,
        )
        steps = run_job(resources, tried)
        workers = resources.workers or room(per_trial(resources))
    return Inspected(steps, whole_work(plan), workers)
