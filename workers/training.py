"""Full training: the student, or a teacher, on the whole training set, into a plain checkpoint."""

from __future__ import annotations

import errno
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from mmengine.dist import is_main_process
from pydantic import BaseModel, ConfigDict

from ..settings import Data, Model, Schedule, Split
from ..space import Distiller, Outcome, Status
from ..space.writing import find_json, replace_file, replacing
from .job import scheduled
from .leftovers import FREED, LOCK, OUTCOME, PROGRESS
from .ranks import first_says
from .resuming import DAMAGED, RESUME, set_aside_if_damaged
from .runner import ProgressHook, host_and_device, score
from .student import SCORE, Inputs, build_inputs, build_student, train_student

#: What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Training(BaseModel):
    """One full training, as plain data. Everything that it leaves is in its folder."""

    model_config = ConfigDict(extra="forbid")

    name: str
    #: The model that is trained.
    model: Model
    #: What the model is to a search, which its file is called after.
    role: Literal["student", "teacher"] = "student"
    #: The teachers, which teach at once. None: the model is trained alone, or learns from labels.
    teachers: list[Model] = []
    #: The content of a distiller file. None: the model is trained alone.
    distiller: dict | None = None
    #: Whether the model starts from the first teacher's neck and head.
    inherit: bool = False
    schedule: Schedule
    train: Split
    #: The split that the model is scored on at the end. None: the model is not scored.
    test: Split | None = None
    #: The split that validations within the training are on. None: the split ``test``.
    val: Split | None = None
    #: mmengine's config of the training, besides models, schedule and what ``data`` says.
    job: dict[str, Any] = {}
    #: Whether the training shows and validates what its job asks for. False, on the proxy: it goes
    #: as a trial does.
    full: bool = True
    data: Data
    seed: int
    #: torch's threads.
    threads: int = 1
    #: The folder of the checkpoint and, until the training is done, of the state to resume from.
    folder: str

    @property
    def checkpoint(self) -> Path:
        """The file of the trained model: a plain mmdet checkpoint.

        Up to version 0.3, a teacher's file had a student's name.
        """
        own, earlier = (Path(self.folder) / f"{role}.pth" for role in (self.role, "student"))
        return earlier if earlier.is_file() and not own.is_file() else own

    def finished(self) -> Outcome | None:
        """The outcome of a training that is done; None: it is not done yet.

        A file that holds no whole outcome is none: the student is scored again. A student whose
        file was freed (``detkds clean``) was trained.
        """
        freed = self.checkpoint.with_name(self.checkpoint.name + FREED)
        there = self.checkpoint.is_file() or freed.is_file()
        outcome = self.last_outcome() if there else None
        return outcome if outcome is not None and outcome.completed else None

    def last_outcome(self) -> Outcome | None:
        """The outcome that the training ended with last; None: it has not ended, or not whole."""
        try:
            text = (Path(self.folder) / OUTCOME).read_text("utf-8")
            return Outcome.from_json(text).checked()
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def progress(self) -> tuple[int, int]:
        """Iterations done and all iterations; (0, 0) before the first."""
        done, total = find_json(Path(self.folder) / PROGRESS) or (0, 0)
        return done, total


def train(training: Training, run: Callable[[Training], Outcome] | None = None) -> Outcome:
    """Train to the end, from where a killed training stopped. A training that is done stays so.

    While another process trains in the same folder, this process waits and returns the outcome of
    the other. ``run``: what trains and scores; None: :func:`train_and_score` in this process.
    """
    try:
        Path(training.folder).mkdir(parents=True, exist_ok=True)
        with _alone(Path(training.folder)):
            return training.finished() or (run or train_and_score)(training)
    except Exception:
        return Outcome.failed(traceback.format_exc(), **host_and_device())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process. A file system may have no locks.

    Raises OSError for a lock that can't be had otherwise: another user's folder, a full disk.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def is_held(training: Training) -> Path | None:
    """The lock of the training's folder, if a process holds it."""
    file = Path(training.folder) / LOCK
    try:
        with FileLock(file, timeout=0):
            return None
    except Timeout:
        return file
    except (OSError, NotImplementedError):
        return None


def train_and_score(training: Training) -> Outcome:
    """Train and score. A student that was trained before a kill is only scored.

    Every process of a training of several calls this function; the first one alone writes files.
    The outcome's ``reason`` names the files that were damaged.
    """
    started = time.perf_counter()
    torch.set_num_threads(training.threads)
    folder = Path(training.folder)
    trained = first_says(lambda: _is_trained(training))
    metrics = _score(training) if trained else _train(training)
    damaged = sorted(folder.glob(f"*{DAMAGED}"))
    names = " and ".join(file.name.removesuffix(DAMAGED) for file in damaged)
    outcome = Outcome(
        Status.COMPLETED,
        score=metrics.get(SCORE, 0.0 if training.test else None),
        metrics=metrics,
        reason=f"trained again, because of a damaged {names}" if names else None,
        seconds=time.perf_counter() - started,
        **host_and_device(),
    ).checked()
    if is_main_process():
        replace_file(folder / OUTCOME, outcome.to_json(), one_writer=True)
        for file in damaged if outcome.completed else []:
            file.unlink()
    return outcome


def _is_trained(training: Training) -> bool:
    """Whether there is a whole checkpoint. Damaged files are set aside."""
    for file in (training.checkpoint, Path(training.folder) / RESUME):
        set_aside_if_damaged(file)
    return training.checkpoint.is_file()


def _score(training: Training) -> dict[str, float]:
    """The metrics of the student in the checkpoint."""
    if is_main_process():
        (Path(training.folder) / RESUME).unlink(missing_ok=True)
    student = build_student(training.model, training.seed, training.checkpoint)
    inputs = _inputs(training, [], training.test)
    if inputs.val_set is None:
        return {}
    loader = scheduled(inputs.job, training.schedule)["val_dataloader"]
    sizes = loader["batch_size"], loader["num_workers"]
    return score(student, inputs.val_set, inputs.metric, *sizes)


def _inputs(training: Training, teachers: list[Model], val: Split | None) -> Inputs:
    splits = training.train, val
    return build_inputs(
        training.model, teachers, training.data, *splits, training.job, full=training.full
    )


def _train(training: Training) -> dict[str, float]:
    folder = Path(training.folder)
    inputs = _inputs(training, training.teachers, training.val or training.test)
    distiller = None
    if training.distiller is not None:
        distiller = Distiller.from_dict(training.distiller, training.name)
    student = build_student(training.model, training.seed)
    metrics = train_student(
        student,
        inputs,
        distiller,
        training.data,
        training.schedule,
        folder,
        seed=training.seed,
        inherit=training.inherit,
        hooks=[ProgressHook(_reporter(folder / PROGRESS))] if is_main_process() else [],
        resumes=True,
    )
    if is_main_process():
        _save(student, inputs.train_set.metainfo, training)
    if training.val is None:
        return metrics
    first_says(training.checkpoint.is_file)  # all processes wait for the file
    return _score(training)


def _save(student: torch.nn.Module, metainfo: dict, training: Training) -> None:
    """Write a plain mmdet checkpoint; then delete the state to resume from."""
    meta = {"dataset_meta": dict(metainfo), "detkds": {"distiller": training.distiller}}
    with replacing(training.checkpoint, one_writer=True) as temporary:
        torch.save({"meta": meta, "state_dict": student.cpu().state_dict()}, temporary)
    (training.checkpoint.parent / RESUME).unlink(missing_ok=True)


def _reporter(path: Path) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        # Written every second, and worth nothing after a crash: not worth waiting for the disk.
        replace_file(path, json.dumps([done, total]), one_writer=True, durable=False)

    return report
