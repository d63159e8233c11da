"""How far running trials are: a small file each, which the worker writes and the driver reads."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..space import Outcome, Progress
from ..space.writing import find_json, replace_file
from .leftovers import RUNNING

#: Seconds between two writes of a worker, between two lines in its log, and between two looks of
#: the driver.
WRITE_EVERY, LOG_EVERY, LOOK_EVERY = 5.0, 60.0, 2.0


class ProgressFile(Hook):
    """Writes how far a training is to a file every few seconds, and now and then a line to the log.

    The file is written first after the first iteration, and last after the last.
    """

    priority = "VERY_LOW"

    def __init__(self, folder: Path, number: int) -> None:
        self.file = folder / f"{number}.json"
        self.written = self.logged = -math.inf

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        now, done = time.monotonic(), runner.iter + 1
        if done == 1:
            self.began = now
        if now - self.written < WRITE_EVERY and done < runner.max_iters:
            return
        loss = (outputs or {}).get("loss")
        progress = Progress(
            done,
            runner.max_iters,
            None if loss is None else float(loss),
            (now - self.began) / (done - 1) * (runner.max_iters - done) if done > 1 else None,
        )
        with suppress(OSError):  # a trial does not fail because nobody sees how far it is
            replace_file(self.file, json.dumps(asdict(progress)), one_writer=True, durable=False)
        self.written = now
        if now - self.logged >= LOG_EVERY:
            self.logged = now
            # A training is quiet: sys.stdout leads nowhere.
            print(progress, file=sys.__stdout__, flush=True)

    def end(self, outcome: Outcome) -> None:
        """Delete the file. A file system that refuses is no failure of the trial."""
        with suppress(OSError):
            self.file.unlink()


@contextmanager
def progress_folder(work_folder: Path, search: str) -> Iterator[Path]:
    """The folder of the files of a search's running trials, for the block."""
    folder = running_folder(work_folder, search)
    shutil.rmtree(folder, ignore_errors=True)  # of a driver that was killed
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def running_folder(work_folder: Path, search: str) -> Path:
    return work_folder.absolute() / f"{RUNNING}{search}"


def at_most_every(seconds: float, function: Callable[[], object]) -> Callable[[], None]:
    """A function that calls another one, unless it did so less than ``seconds`` ago."""
    last = -math.inf

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            function()

    return call


def read(folder: Path) -> dict[int, Progress]:
    """How far each trial is whose worker has written a file. A file may go while it is read."""
    found = {}
    for file in folder.glob("[0-9]*.json"):
        written = find_json(file)
        if isinstance(written, dict):
            found[int(file.stem)] = Progress(**written)
    return found
