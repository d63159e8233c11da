"""A search's teacher, scored on the images that score trials: what their APs are read against."""

from __future__ import annotations

import time
import traceback
from functools import partial

from ...db import SearchRow, Store
from ...db.rows import TEACHER_SCORED, teacher_ap
from ...settings import Model
from ...space import Outcome, Status
from ...workers.scoring import score_job
from ...workers.student import SCORE
from ...workers.tasks import run_job
from ..plans.plan import Plan
from ..plans.trainings import Display, because


def score_teacher(plan: Plan, store: Store, search: SearchRow, display: Display) -> float | None:
    """The teacher's AP in [0, 1], which a worker measures if the store lacks it.

    None without a teacher, and if the measurement fails: the search goes on, and the row in the
    store has the error.
    """
    teacher = plan.task.teacher
    if teacher is None:
        return None
    conditions = plan.trial_conditions
    rows = [row for row in store.trainings(search.id) if row.conditions == conditions]
    known = teacher_ap(rows)
    if known is not None:
        return known
    row = store.add_training(TEACHER_SCORED, plan.seed, "proxy", conditions, search.id)
    outcome = _measured(plan, teacher)
    store.finish_training(row, outcome)
    if outcome.score is None:
        display.say(f"teacher: its score failed{because(outcome)}")
        return None
    seen = "it was trained on them" if plan.teacher else "it may have been trained on them"
    display.say(f"teacher  AP {100 * outcome.score:.1f} on the images that score trials ({seen})")
    return outcome.score


def _measured(plan: Plan, teacher: Model) -> Outcome:
    config, began = plan.config, time.perf_counter()
    job = partial(score_job, teacher, plan.proxy[1], config.data, config.job, plan.task.threads)
    try:
        metrics = run_job(config.resources, job)
    except Exception:  # a metric or a loader of the user's raises anything
        return Outcome.failed(traceback.format_exc())
    # mmdet gives no metrics for a detector that finds no object: its AP is 0.
    score, seconds = metrics.get(SCORE, 0.0), time.perf_counter() - began
    return Outcome(Status.COMPLETED, score=score, metrics=metrics, seconds=seconds).checked()
