"""What the final trainings' students and the teacher find, for the report: one file, made once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..settings import FOUND, Data, Model
from ..space import NONE, Outcome
from ..space.writing import find_json, replace_file
from ..workers.looking import ALONE, DISTILLED, TEACHER, look
from ..workers.tasks import run_job
from ..workers.training import Training
from .plans.models import trained
from .plans.plan import Plan
from .plans.trainings import Display
from .record import DETECTIONS, detections_file


def look_at_detections(
    plan: Plan, results: Sequence[tuple[Training, Outcome]], display: Display, name: str
) -> None:
    """Write what the students of the first seed and the teacher find in the test images.

    The file lies in the work folder and stays while it is of the same trainings. Without final
    trainings on a test split, and with ``final.pictures=0``, there is none. A failure is told in
    one line and leaves no file: the search has its result already.
    """
    final, file = plan.config.final, detections_file(plan.folder, name)
    students = _students(results)
    if final is None or not final.pictures or plan.test is None or not students:
        return
    folders = {role: Path(one.folder).name for role, one in students.items()}
    head = {"schema": DETECTIONS, "trainings": folders, "asked": final.pictures}
    known = find_json(file)
    if isinstance(known, dict) and head.items() <= known.items():
        return
    data = plan.config.data
    models: dict[str, tuple[Model, Data]] = {
        role: (trained(one.model, one), data) for role, one in students.items()
    }
    if plan.task.teacher is not None:
        models[TEACHER] = plan.task.teacher, data.for_teachers
    job = partial(
        look,
        models,
        plan.test,
        plan.config.job,
        final.batch_size,
        final.pictures,
        plan.task.threads,
    )
    try:
        file.unlink(missing_ok=True)
        found: dict[str, Any] = run_job(plan.config.resources, job)
        names = {role: one.name for role, one in students.items()}
        seed = next(iter(students.values())).seed
        folder = _from(plan.folder, plan.test.images)
        replace_file(
            file, json.dumps({**head, "names": names, "seed": seed, "images": folder, **found})
        )
    except Exception as error:  # a loader or a model of the user's raises anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        display.say(f"the report will show no detections: {reason}")
        return
    display.say(f"detections  in {found['looked_at']} test images, for `detkds report`: {file}")


def _students(results: Sequence[tuple[Training, Outcome]]) -> dict[str, Training]:
    """The student alone, and the found or else the best distilled one, whose files are there."""
    there = [
        (training, outcome.score)
        for training, outcome in results
        if training.seed == results[0][0].seed and training.checkpoint.is_file()
    ]
    alone = next((one for one, _ in there if one.name == NONE), None)
    others = [pair for pair in there if pair[0].distiller is not None]
    others.sort(key=lambda pair: (pair[0].name != FOUND, -(pair[1] or 0.0)))
    roles = {ALONE: alone, DISTILLED: others[0][0] if others else None}
    return {role: one for role, one in roles.items() if one is not None}


def _from(folder: Path, path: str) -> str:
    """The path relative to the work folder if it lies there, so that both may move together."""
    whole = Path(path).absolute()
    return os.path.relpath(whole, folder) if whole.is_relative_to(folder) else str(whole)
