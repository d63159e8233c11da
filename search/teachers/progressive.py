"""Progressive training (MTPD, Section 3.2): one teacher after the other, one student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...db import SearchRow, Store
from ...space import Distiller, Outcome, WrongUse
from ...space.writing import find_json, replace_file
from ...workers.training import Training
from ..plans.full import final_section, off_the_shelf
from ..plans.keys import training_key
from ..plans.models import trained
from ..plans.plan import Plan
from ..plans.pool import PoolModel
from ..plans.trainings import Display, check_training, ready, train_all
from .pool import COST_IMAGES, measured_pool, ordered, say_scores

#: The note of the teachers that a progressive training was started with.
_NOTE = "teachers.json"


def progressive_stages(
    plan: Plan, teachers: list[PoolModel], name: str, distiller: Distiller, seed: int
) -> list[Training]:
    """One training per teacher, first to last; each starts from the student of the one before.

    The first starts from the student of :func:`off_the_shelf`. The teachers share the epochs of
    ``final``. Each stage has the whole learning-rate schedule, shortened to its epochs, an
    optimizer of its own, and its teacher's size of images (MTPD, Table 13). The student inherits
    neck and head from the first teacher only. Raises :class:`WrongUse` for more teachers than
    epochs.
    """
    final = final_section(plan)
    whole = final.schedule
    if whole.epochs < len(teachers):
        raise WrongUse(
            f"{whole.epochs} for {len(teachers)} teachers; give each at least one, or use fewer "
            "teachers",
            "final.epochs",
        )
    document = distiller.to_dict()
    order = [teacher.name for teacher in teachers]
    before, start = off_the_shelf(plan, seed)
    sources = [plan.task.inherit, [teacher.key for teacher in teachers], start]
    key = training_key(plan.student_key(plan.config.data.for_student), sources, distiller, whole)
    folder = plan.folder / "trained" / f"{name}-progressive-seed{seed}-{key[:8]}"
    stages: list[Training] = []
    for index, (teacher, epochs) in enumerate(
        zip(teachers, shares(whole.epochs, order), strict=True)
    ):
        student = plan.task.student if before is None else trained(plan.task.student, before)
        stages.append(
            plan.training(
                name=f"{name} {index + 1}/{len(order)} {teacher.name}",
                model=student,
                data=plan.config.data.beside(teacher.image_size),
                teachers=[teacher.model],
                distiller=document,
                inherit=plan.task.inherit and index == 0,
                schedule=whole.over(epochs),
                seed=seed,
                folder=str(folder / f"{index + 1}-{teacher.name}"),
            )
        )
        before = stages[-1]
    return stages


def shares(epochs: int, teachers: list[str]) -> list[int]:
    """A share of the epochs for each teacher; if they do not divide, the first have one more."""
    share, rest = divmod(epochs, len(teachers))
    return [share + (index < rest) for index in range(len(teachers))]


def check_started(plan: Plan, name: str, teachers: list[PoolModel], distiller: Distiller) -> None:
    """Raise :class:`WrongUse` if an unfinished training of a seed has other teachers."""
    names = [teacher.name for teacher in teachers]
    for file, _ in _notes(plan, name, teachers, distiller):
        known = find_json(file)
        if known is None or known["teachers"] == names:
            continue
        last = Path(known["last"])
        if last.parent.is_dir() and not (last / "student.pth").is_file():
            raise WrongUse(
                f"the training in {file.parent} was started with {','.join(known['teachers'])} and "
                "is not finished; give the same teachers, or another work folder",
                "order",
            )


def note_started(plan: Plan, name: str, teachers: list[PoolModel], distiller: Distiller) -> None:
    """Note the teachers that the trainings of all seeds are started with."""
    for file, note in _notes(plan, name, teachers, distiller):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(note) + "\n")


def _notes(
    plan: Plan, name: str, teachers: list[PoolModel], distiller: Distiller
) -> list[tuple[Path, dict[str, Any]]]:
    """The file and the content of each seed's note: the teachers, and the last stage's folder."""
    notes = []
    for seed in final_section(plan).seeds:
        last = progressive_stages(plan, teachers, name, distiller, seed)[-1].folder
        file = plan.folder / "trained" / f"{name}-progressive-seed{seed}" / _NOTE
        notes.append((file, {"teachers": [one.name for one in teachers], "last": last}))
    return notes


def run_progressive(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    teachers: list[PoolModel] | None,
    algorithm: str = "bgs",
    max_teachers: int | None = None,
) -> list[tuple[Training, Outcome]]:
    """Train the student under one of the plan's teachers after the other, under each seed.

    ``teachers``: first to last; None for the order of at most ``max_teachers`` (None: all) that
    ``algorithm`` makes of the plan's teachers. A killed training resumes in its stage and
    iteration. Returns every stage of every seed.
    """
    check_training(plan, distiller, teachers or plan.pool[1:])
    if teachers is not None:
        check_started(plan, name, teachers, distiller)
    else:
        say_scores(plan, display)
    with ready(plan, display):
        if teachers is None:
            pool = measured_pool(plan, store, display, COST_IMAGES)
            teachers = ordered(plan, pool, algorithm, max_teachers)
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
    """Train under one teacher after the other, all seeds side by side, on a cluster that runs."""
    display.say(f"teachers: {' → '.join(teacher.name for teacher in teachers)}")
    check_started(plan, name, teachers, distiller)
    note_started(plan, name, teachers, distiller)
    seeds = final_section(plan).seeds
    stages = [progressive_stages(plan, teachers, name, distiller, seed) for seed in seeds]
    train_first(plan, store, display, teachers, search)
    results: list[tuple[Training, Outcome]] = []
    for side_by_side in map(list, zip(*stages, strict=True)):
        outcomes = train_all(side_by_side, plan, display, store, search)
        results += zip(side_by_side, outcomes, strict=True)
    return results


def train_first(
    plan: Plan,
    store: Store,
    display: Display,
    teachers: list[PoolModel],
    search: SearchRow | None = None,
) -> None:
    """Train what trainings under several teachers wait for: teachers and the student they start
    from, each seed its own."""
    final = final_section(plan)
    starts = [training for seed in final.seeds if (training := off_the_shelf(plan, seed)[0])]
    if starts:
        display.say(
            f"the student starts from {final.epochs} epochs of training alone, and has as many "
            "under its teachers; final.off_the_shelf=False leaves the first out"
        )
    needed = [one.training for one in teachers if one.training]
    train_all([*needed, *starts], plan, display, store, search)
