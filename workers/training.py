"""Full training: the student, or a teacher, on the whole training set, into a plain checkpoint."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock
from mmengine.device import get_device
from pydantic import BaseModel, ConfigDict

from ..data.loading import build_dataset, build_metric
from ..detectors import TeacherMemory, has_masks, model_config
from ..distillers import DistilledDetector
from ..settings import Data, Model, Schedule, Split
from ..space import Distiller, Outcome, Status
from .resuming import RESUME
from .runner import ProgressHook, fit
from .trial import SCORE, build_student, build_teacher

CHECKPOINT = "student.pth"
_OUTCOME = "outcome.json"
_PROGRESS = "progress.json"
_LOCK = "training.lock"


class Training(BaseModel):
    """One full training, as plain data.

    ``model`` is trained on ``train`` from ``seed``; with ``distiller`` (the content of a distiller
    file) under ``teacher``, whose neck and head it takes over with ``inherit``. It is scored on
    ``test`` at the end, if there is one. Everything it leaves is in ``folder``: a file to resume
    from while it runs, ``student.pth`` when it is done.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    model: Model
    teacher: Model | None = None
    distiller: dict | None = None
    inherit: bool = False
    schedule: Schedule
    train: Split
    test: Split | None = None
    data: Data
    seed: int
    threads: int = 1
    folder: str

    @property
    def checkpoint(self) -> Path:
        return Path(self.folder) / CHECKPOINT

    def finished(self) -> Outcome | None:
        """The outcome of a training that is already done in this folder."""
        path = Path(self.folder) / _OUTCOME
        if not (path.is_file() and self.checkpoint.is_file()):
            return None
        return Outcome.from_json(path.read_text("utf-8"))

    def progress(self) -> tuple[int, int]:
        """Iterations done and in all, (0, 0) before the first."""
        try:
            done, total = json.loads((Path(self.folder) / _PROGRESS).read_text("utf-8"))
        except (OSError, ValueError):
            return 0, 0
        return done, total


def train(training: Training) -> Outcome:
    """Train to the end, resuming a killed training; one that is done already is not repeated.

    While another process trains in the same folder, this one waits for what comes out.
    """
    where = {"host": socket.gethostname(), "device": get_device()}
    try:
        Path(training.folder).mkdir(parents=True, exist_ok=True)
        with _alone(Path(training.folder)):
            return training.finished() or _outcome(training, where)
    except Exception:
        return Outcome.failed(traceback.format_exc(), **where)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process; without one where there are no locks."""
    lock = FileLock(folder / _LOCK)
    with suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _outcome(training: Training, where: dict[str, str]) -> Outcome:
    started = time.perf_counter()
    metrics = _train(training)
    outcome = Outcome(
        Status.COMPLETED,
        score=metrics.get(SCORE, 0.0 if training.test else None),
        metrics=metrics,
        seconds=time.perf_counter() - started,
        **where,
    )
    _write(Path(training.folder) / _OUTCOME, outcome.to_json())
    return outcome


def _train(training: Training) -> dict[str, float]:
    torch.set_num_threads(training.threads)
    folder = Path(training.folder)
    data, size = training.data, training.data.image_size
    masks = has_masks(model_config(training.model.config, training.model.cfg_options))
    train_set = build_dataset(
        training.train.annotations,
        training.train.images,
        data.train_size,
        training=True,
        flip=data.flip,
        masks=masks,
        cache_megabytes=data.cache_megabytes,
    )
    test_set = metric = None
    if training.test is not None:
        split = training.test
        test_set = build_dataset(split.annotations, split.images, size, training=False)
        metric = build_metric(split.annotations, test_set, masks=masks)
    distiller = None
    teacher = memory = None
    if training.distiller is not None:
        distiller = Distiller.from_dict(training.distiller, training.name)
    if training.teacher is not None:
        teacher = build_teacher(training.teacher)
        memory = TeacherMemory(teacher, images=len(train_set), megabytes=data.cache_megabytes)
    student = build_student(training.model, training.seed)
    model = DistilledDetector(
        student,
        teacher,
        distiller,
        memory=memory,
        inherit=training.inherit,
        student_scale=data.student_scale,
    )
    metrics = fit(
        model,
        train_set,
        training.schedule,
        folder,
        seed=training.seed,
        metric=metric,
        val_set=test_set,
        hooks=[ProgressHook(_reporter(folder / _PROGRESS))],
        resumes=True,
        num_workers=data.num_workers,
    )
    _save(student, train_set.metainfo, training)
    return metrics


def _save(student: torch.nn.Module, metainfo: dict, training: Training) -> None:
    """A plain mmdet checkpoint; what a resume would need makes room for it."""
    meta = {"dataset_meta": dict(metainfo), "detkds": {"distiller": training.distiller}}
    temporary = training.checkpoint.with_suffix(".tmp")
    torch.save({"meta": meta, "state_dict": student.cpu().state_dict()}, temporary)
    os.replace(temporary, training.checkpoint)
    (training.checkpoint.parent / RESUME).unlink(missing_ok=True)


def _reporter(path: Path) -> Callable[[int, int], None]:
    return lambda done, total: _write(path, json.dumps([done, total]))


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
