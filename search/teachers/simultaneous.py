"""Simultaneous distillation: several teachers at once, MTPD's baseline for the sequence."""

from __future__ import annotations

from ...db import Store
from ...space import Distiller, Outcome
from ...workers.training import Training
from ..plans.full import final_section, off_the_shelf
from ..plans.keys import training_key
from ..plans.models import trained
from ..plans.plan import Plan
from ..plans.pool import PoolModel, check_sizes
from ..plans.trainings import Display, check_training, ready, train_all
from .progressive import train_first


def simultaneous_training(
    plan: Plan, teachers: list[PoolModel], name: str, distiller: Distiller, seed: int
) -> Training:
    """One training of the student under all teachers: the mean of their distillation losses.

    The schedule is the whole one of ``final``. The student starts as in a progressive training;
    neck and head are inherited from the first teacher. The teachers see images of one size.
    """
    schedule = final_section(plan).schedule
    data = plan.config.data.beside(teachers[0].image_size)
    first, start = off_the_shelf(plan, seed)
    sources = [plan.task.inherit, "simultaneous", [teacher.key for teacher in teachers], start]
    key = training_key(plan.student_key(data), sources, distiller, schedule)
    return plan.training(
        name=f"{name} under {', '.join(teacher.name for teacher in teachers)}",
        model=plan.task.student if first is None else trained(plan.task.student, first),
        data=data,
        teachers=[teacher.model for teacher in teachers],
        distiller=distiller.to_dict(),
        inherit=plan.task.inherit,
        schedule=schedule,
        seed=seed,
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

    Teachers without weights, and the student that the training starts from, are trained first.
    Raises :class:`WrongUse` for teachers that see images of different sizes.
    """
    check_training(plan, distiller, teachers)
    check_sizes(teachers)
    seeds = final_section(plan).seeds
    trainings = [simultaneous_training(plan, teachers, name, distiller, seed) for seed in seeds]
    with ready(plan, display):
        train_first(plan, store, display, teachers)
        outcomes = train_all(trainings, plan, display, store)
    return list(zip(trainings, outcomes, strict=True))
