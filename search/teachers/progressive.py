"""Progressive training (MTPD, Section 3.2): one teacher after the other, one student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...db import SearchRow, Store
from ...settings import Schedule
from ...space import Distiller, Outcome, WrongUse
from ...workers.training import Training
from ..plans.checks import fingerprint
from ..plans.plan import Plan, final_section, trained
from ..plans.trainings import Display, check_training, ready, train_all
from .pool import COST_IMAGES, PoolModel, measured_pool, ordered

_ORDER = "teachers.json"


def progressive_stages(
    plan: Plan, teachers: list[PoolModel], name: str, distiller: Distiller, seed: int
) -> list[Training]:
    """One training per teacher, first to last; each starts from the student the last one left.

    The epochs of ``final`` are shared out equally, the first teachers getting one more where they
    do not divide. Each stage has the whole learning-rate schedule, shortened to its epochs, and an
    optimizer of its own. Neck and head are inherited from the first teacher only. Raises
    :class:`WrongUse` for more teachers than epochs.
    """
    final = final_section(plan)
    whole = final.schedule
    if whole.epochs < len(teachers):
        raise WrongUse(
            f"final.epochs: {whole.epochs} for {len(teachers)} teachers; give each at least one, "
            "or use fewer by --max-teachers"
        )
    document = distiller.to_dict()
    order = [teacher.name for teacher in teachers]
    sources = [plan.task.inherit, [teacher.key for teacher in teachers]]
    key = fingerprint([plan.student_key, sources, distiller.key, whole.model_dump()])
    folder = plan.folder / "trained" / f"{name}-progressive-seed{seed}-{key[:8]}"
    stages: list[Training] = []
    for index, (teacher, epochs) in enumerate(
        zip(teachers, shares(whole.epochs, order), strict=True)
    ):
        student = plan.task.student if not stages else trained(plan.task.student, stages[-1])
        stages.append(
            Training(
                name=f"{name} {index + 1}/{len(order)} {teacher.name}",
                model=student,
                teachers=[teacher.model],
                distiller=document,
                inherit=plan.task.inherit and index == 0,
                schedule=shortened(whole, epochs),
                train=plan.train,
                test=plan.test,
                data=plan.config.data,
                seed=seed,
                threads=plan.task.threads,
                folder=str(folder / f"{index + 1}-{teacher.name}"),
            )
        )
    return stages


def shares(epochs: int, teachers: list[str]) -> list[int]:
    """Equal shares that sum to ``epochs``, the first larger by one where they do not divide."""
    least, more = divmod(epochs, len(teachers))
    return [least + (index < more) for index in range(len(teachers))]


def shortened(schedule: Schedule, epochs: int) -> Schedule:
    """The same schedule in fewer epochs: what schedulers count in epochs shrinks with them."""
    ratio = epochs / schedule.epochs

    def shrink(value: Any) -> Any:
        return (
            [shrink(v) for v in value] if isinstance(value, list) else max(1, round(value * ratio))
        )

    schedulers = []
    for scheduler in schedule.param_scheduler:
        if scheduler.get("by_epoch", True):
            counted = {k: shrink(v) for k, v in scheduler.items() if k in _COUNTED and v}
            scheduler = {**scheduler, **counted}
        schedulers.append(scheduler)
    return schedule.model_copy(update={"epochs": epochs, "param_scheduler": schedulers})


_COUNTED = ("milestones", "begin", "end", "T_max", "step_size", "total_iters")


def check_started(plan: Plan, name: str, teachers: list[PoolModel], distiller: Distiller) -> None:
    """Note which teachers the trainings of all seeds are started with.

    Raises :class:`WrongUse` if one was started with others and has not been finished.
    """
    for seed in final_section(plan).seeds:
        stages = progressive_stages(plan, teachers, name, distiller, seed)
        file = plan.folder / "trained" / f"{name}-progressive-seed{seed}" / _ORDER
        note = {"teachers": [one.name for one in teachers], "last": stages[-1].folder}
        try:
            known = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            known = note
        unfinished = not (Path(known["last"]) / "student.pth").is_file()
        if known["teachers"] != note["teachers"] and unfinished:
            raise WrongUse(
                f"--teachers: the training in {file.parent} was started with "
                f"{','.join(known['teachers'])} and is not finished; give the same teachers, or "
                "another --work-dir"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(note) + "\n", "utf-8")


def run_progressive(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    models: list[PoolModel],
    teachers: list[PoolModel] | None,
    algorithm: str,
    most: int | None,
) -> list[tuple[Training, Outcome]]:
    """Train the student along a sequence of teachers, under each of ``final.seeds``.

    ``teachers``: first to last; None for the order that ``algorithm`` gives, of ``most`` at the
    most, over ``models``. A training that was killed goes on in the stage and iteration it had
    reached. Returns every stage of every seed.
    """
    check_training(plan, distiller, [one.signature for one in teachers or models[1:]])
    if teachers is not None:
        check_started(plan, name, teachers, distiller)
    with ready(plan, display):
        if teachers is None:
            pool = measured_pool(plan, models, store, display, COST_IMAGES)
            teachers = ordered(models, pool, algorithm, most)
        return train_along(plan, store, display, distiller, name, teachers)


def train_along(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    teachers: list[PoolModel],
    search: SearchRow | None = None,
) -> list[tuple[Training, Outcome]]:
    """Inside of a cluster: one teacher after the other, the seeds side by side."""
    display.say(f"teachers: {' → '.join(teacher.name for teacher in teachers)}")
    check_started(plan, name, teachers, distiller)
    seeds = final_section(plan).seeds
    stages = [progressive_stages(plan, teachers, name, distiller, seed) for seed in seeds]
    train_all([t.training for t in teachers if t.training], plan, display, store)
    results: list[tuple[Training, Outcome]] = []
    for side_by_side in map(list, zip(*stages, strict=True)):
        outcomes = train_all(side_by_side, plan, display, store, search)
        results += zip(side_by_side, outcomes, strict=True)
    return results
