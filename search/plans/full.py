"""The full trainings of a plan: the student alone, with a distiller, the final table's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...settings import BEST_PRESET, FOUND, PROGRESSIVE, Final, SearchConfig, Split
from ...space import NONE, Distiller, WrongUse
from ...workers.job import saves_best, with_validation
from ...workers.training import Training
from . import keys

if TYPE_CHECKING:
    from .plan import Plan


def final_section(plan: Plan) -> Final:
    """How the student is trained in full. Raises :class:`WrongUse` if the config does not say."""
    if plan.config.final is None:
        raise WrongUse(
            "the config lacks this section, which says how long the student is trained; add it",
            "final",
        )
    return plan.config.final


def full_job(config: SearchConfig) -> dict[str, Any]:
    """The section ``job`` with the validations that ``final`` asks for."""
    final = config.final
    if final is None or (final.val_interval is None and final.save_best is None):
        return config.job
    return with_validation(config.job, final.val_interval, final.save_best)


def validated_on(plan: Plan) -> Split | None:
    """What validations within full trainings are on besides the test split: ``data.val``.

    None if there is none, if nothing is validated, and if the job's own evaluators, which read the
    file of its validation set, are used.
    """
    job = full_job(plan.config)
    return plan.val if job.get("val_cfg") and "val_evaluator" not in job else None


def choice_notes(plan: Plan) -> list[str]:
    """That the test split chooses an epoch, if it does."""
    if not saves_best(full_job(plan.config)) or plan.test is None or validated_on(plan):
        return []
    return [
        "final: save_best chooses the epoch by the test images, as mmdet does: the AP of "
        "best_….pth is no score of unseen images. student.pth and all tables are of the last epoch"
    ]


def final_trainings(plan: Plan, decided: Mapping[str, Distiller]) -> list[Training]:
    """The trainings of the final table: each of its rows under each seed.

    ``decided``: the distillers of the rows that the search decides on; the best preset's row has
    its name. A row that is not decided (no preset was tried, or the best preset is exported), a
    row that would repeat the student alone, and the progressive trainings, which wait for an order
    of the teachers, are left out.
    """
    waiting = {FOUND, BEST_PRESET, PROGRESSIVE} - set(decided)
    rows: dict[str, Distiller | None] = {}
    for name, hand_made in plan.compare.items():
        if name == BEST_PRESET and name in decided:
            rows[decided[name].name or name] = decided[name]
        elif name in decided and not decided[name].active and NONE in plan.compare:
            continue
        elif name not in waiting:
            rows[name] = decided.get(name, hand_made)
    return [
        student_training(plan, name, distiller and replace(distiller, name=name), seed)
        for seed in final_section(plan).seeds
        for name, distiller in rows.items()
    ]


def student_training(plan: Plan, name: str, distiller: Distiller | None, seed: int) -> Training:
    """One full training of the plan's student, with a distiller or alone.

    The folder is named after the training's key. What is trained already under another name, as a
    search's "found" distiller is, has the other's folder.
    """
    schedule = final_section(plan).schedule
    if distiller is not None and not distiller.active:
        distiller = None
    learned = taught(plan, distiller)
    source = [plan.trial_keys.teacher, plan.task.inherit] if learned["teachers"] else None
    key = keys.training_key(plan.student_key(learned["data"]), source, distiller, schedule)
    training = plan.training(
        **learned,
        name=name,
        model=plan.task.student,
        schedule=schedule,
        seed=seed,
        folder=str(plan.folder / "trained" / f"{name}-seed{seed}-{key[:8]}"),
    )
    return _done_before(training)


def _done_before(training: Training) -> Training:
    """The same training, under whatever name it is done: a folder's name ends with the key."""
    own = Path(training.folder)
    key = re.search(r"-seed\d+-[0-9a-f]+$", own.name)
    assert key is not None
    for folder in [own, *sorted(own.parent.glob(f"*{key[0]}"))]:
        found = training.model_copy(update={"folder": str(folder)})
        if found.finished():
            return found
    return training


def taught(plan: Plan, distiller: Distiller | None) -> dict[str, Any]:
    """The fields of a training that follow from what the student is distilled with.

    None, or a distiller without active terms, trains the student alone. A student that takes
    nothing from the teacher trains without the teacher.
    """
    active = distiller if distiller is not None and distiller.active else None
    learns = active is not None and (active.needs_teacher or plan.task.inherit)
    return {
        "data": plan.config.data if learns else plan.config.data.for_student,
        "teachers": [plan.task.teacher] if learns and plan.task.teacher else [],
        "distiller": None if active is None else active.to_dict(),
        "inherit": plan.task.inherit and learns,
    }


def trained_alone(plan: Plan, seed: int) -> tuple[Training, str]:
    """The training of the student alone, and the key of the student that it leaves."""
    training = student_training(plan, "none", None, seed)
    student = plan.student_key(training.data)
    return training, keys.pool_trained_student_key(student, training.schedule, seed)


def off_the_shelf(plan: Plan, seed: int) -> tuple[Training | None, str | None]:
    """What a training under several teachers starts from: see :func:`trained_alone`.

    "We initialize from an off-the-shelf ('OTS') student" (MTPD, Section 4.2). Nothing is trained
    before for a student that has a checkpoint, that inherits neck and head from its first teacher
    (Appendix G: with FGD and MGD, the paper's students start that way instead), or if
    ``final.off_the_shelf`` is off.
    """
    ready = plan.task.student.checkpoint is not None or plan.task.inherit
    if ready or not final_section(plan).off_the_shelf:
        return None, None
    return trained_alone(plan, seed)
