"""Simultaneous distillation: several teachers at once, MTPD's baseline for the sequence."""

from __future__ import annotations

from ...db import Store
from ...space import Distiller, Outcome
from ...workers.training import Training
from ..plans.keys import training_key
from ..plans.plan import Plan, final_section
from ..plans.pool import PoolModel
from ..plans.trainings import Display, check_training, ready, train_all


def simultaneous_training(
    plan: Plan, teachers: list[PoolModel], name: str, distiller: Distiller, seed: int
) -> Training:
    """One training of the student under all teachers: the mean of their distillation losses.

    The schedule is the whole one of ``final``. Neck and head are inherited from the first teacher.
    """
    schedule = final_section(plan).schedule
    sources = [plan.task.inherit, "simultaneous", [teacher.key for teacher in teachers]]
    key = training_key(plan.student_key, sources, distiller, schedule)
    return Training(
        name=f"{name} under {', '.join(teacher.name for teacher in teachers)}",
        model=plan.task.student,
        teachers=[teacher.model for teacher in teachers],
        distiller=distiller.to_dict(),
        inherit=plan.task.inherit,
        schedule=schedule,
        train=plan.train,
        test=plan.test,
        data=plan.config.data,
        seed=seed,
        threads=plan.task.threads,
        folder=str(plan.folder / "trained" / f"{name}-simultaneous-seed{seed}-{key[:8]}"),
    )


def run_simultaneous(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    teachers: list[PoolModel],
) -> list[tuple[Training, Outcome]]:
    """Train the student under all teachers at once, under each of ``final.seeds``.

    Teachers without weights are trained first.
    """
    check_training(plan, distiller, [teacher.signature for teacher in teachers])
    seeds = final_section(plan).seeds
    trainings = [simultaneous_training(plan, teachers, name, distiller, seed) for seed in seeds]
    with ready(plan, display):
        train_all([t.training for t in teachers if t.training], plan, display, store)
        outcomes = train_all(trainings, plan, display, store)
    return list(zip(trainings, outcomes, strict=True))
