"""A few real steps of each kind of training: whether they work, how long they take, what they hold.

They run where trainings run, as trainings do: mmengine's runner, the job's loaders and hooks.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..settings import Data, Model, Schedule, Split, Task
from ..space import Distiller, SearchFailed
from .leftovers import temporary
from .student import build_inputs, build_student, train_student
from .training import Training

#: Steps of each kind. The first one warms up and is not timed.
STEPS = 3
#: Images that are scored.
SCORED = 8
#: What steps are called that learn from no distiller.
TEACHER, ALONE, SCORING = "teacher", "student alone", "scoring"


@dataclass(frozen=True)
class Step:
    """A kind of step: seconds an image, and the most megabytes that the process held so far.

    On a GPU the megabytes are those of the step on the GPU.
    """

    name: str
    seconds: float
    megabytes: float


class _Enough(Exception):
    """Ends a training after its steps."""


class _Timer(Hook):
    """Measures the steps after the first, and ends the training."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.times: list[float] = []

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.times.append(_now())

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == min(STEPS, runner.max_iters):
            self.times.append(_now())
            raise _Enough

    @property
    def seconds(self) -> float:
        """Of one step; with a single step, that one's."""
        first = 1 if len(self.times) > 2 else 0
        return (self.times[-1] - self.times[first]) / (len(self.times) - 1 - first)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def try_steps(
    task: Task,
    schedule: Schedule,
    proxy: tuple[Split, Split],
    distillers: Mapping[str, Distiller],
    teacher: Training | None,
) -> list[Step]:
    """Steps of the student alone and with each distiller, of a teacher that is trained, of scoring.

    ``distillers``: by the name of the step. ``teacher``: the training of the task's teacher, which
    has random weights here, or None. Nothing is left. Raises :class:`SearchFailed` that names the
    step which fails.
    """
    torch.set_num_threads(task.threads)
    steps: list[Step] = []
    with tempfile.TemporaryDirectory(prefix=temporary("steps")) as name:
        folder = Path(name)
        own = task.teacher
        if teacher is not None:
            look = teacher.data, teacher.schedule, teacher.train
            steps.append(_tried(TEACHER, teacher.model, None, None, task, *look, folder))
            assert own is not None
            own = own.model_copy(update={"checkpoint": str(_random_weights(teacher, folder))})
        look = task.data, schedule, proxy[0]
        single = task.data.for_student, schedule, proxy[0]
        steps.append(_tried(ALONE, task.student, None, None, task, *single, folder))
        for kind, distiller in distillers.items():
            steps.append(_tried(kind, task.student, own, distiller, task, *look, folder))
        steps.append(_scored(task, proxy))
    return steps


def _random_weights(teacher: Training, folder: Path) -> Path:
    file = folder / "teacher.pth"
    torch.save({"state_dict": build_student(teacher.model, teacher.seed).state_dict()}, file)
    return file


def _tried(
    name: str,
    model: Model,
    teacher: Model | None,
    distiller: Distiller | None,
    task: Task,
    data: Data,
    schedule: Schedule,
    train: Split,
    folder: Path,
) -> Step:
    timer = _Timer()
    learns = distiller is not None and distiller.needs_teacher
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        teachers = [teacher] if teacher is not None and learns else []
        inputs = build_inputs(model, teachers, data, train, None, task.job)
        train_student(
            build_student(model, 0),
            inputs,
            distiller,
            data,
            schedule,
            folder,
            seed=0,
            inherit=task.inherit and bool(teachers),
            hooks=[timer],
        )
    except _Enough:
        pass
    except Exception as error:  # a model or a transform of images may raise anything
        raise _failed(name, error) from None
    return Step(name, timer.seconds / schedule.batch_size, _megabytes())


def _scored(task: Task, proxy: tuple[Split, Split]) -> Step:
    """The student's answers on a batch of validation images; COCO's metrics are not counted."""
    try:
        inputs = build_inputs(task.student, [], task.data.for_student, *proxy, task.job)
        student = build_student(task.student, 0).to(get_device()).eval()
        count = min(SCORED, len(inputs.val_set))
        began = _now()
        with torch.no_grad():
            student.val_step(pseudo_collate([inputs.val_set[index] for index in range(count)]))
        return Step(SCORING, (_now() - began) / count, _megabytes())
    except Exception as error:
        raise _failed(SCORING, error) from None


def _failed(name: str, error: Exception) -> SearchFailed:
    lines = str(error).strip().splitlines() or [""]
    return SearchFailed(f"a step of '{name}' fails: {type(error).__name__}: {lines[0]}")


def _megabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
