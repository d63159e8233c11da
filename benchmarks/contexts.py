"""The context of a plan's trials, for benchmarks that run them without Ray."""

from __future__ import annotations

from detkds.detectors import register
from detkds.search.plans.plan import Plan, make_data
from detkds.workers.training import train
from detkds.workers.trial import TrialContext


def build_context(plan: Plan) -> TrialContext:
    """The context of the trials, after the trainings that they wait for."""
    make_data(plan)
    register()
    for training in plan.preliminary:
        outcome = train(training)
        if outcome.error:
            raise RuntimeError(outcome.error)
    warmup = None if plan.warmup is None else str(plan.warmup.checkpoint)
    return TrialContext.build(
        plan.task, plan.config.trial, plan.proxy, seed=plan.seed, warmup=warmup
    )
