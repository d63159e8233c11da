"""Whether trials leak: memory of one process after many short trials against after the first 20.

The trials are real: the quickstart's thin student under its teacher (random weights), one epoch of
three iterations on twelve images of shapes, scored on four others. Candidates are random terms, the
five kinds of knowledge in turn.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detkds.data import make_shapes
from detkds.detectors import build_detector, model_config
from detkds.settings import Data, Split, Task, TrialSchedule, load_config
from detkds.space import Distiller, SearchSpace
from detkds.workers.trial import TrialContext, evaluate
from rich.console import Console
from rich.table import Table

BASE = 20  # trials until caches are full; the first memory is read after them
IMAGES: dict[str, Any] = {"train": 12, "val": 4, "test": 1}
SIZE = 64  # pixels a side
BATCH = 4


@dataclass(frozen=True)
class Memory:
    """After ``trials``, in MiB: all that is resident, and of that what is no file's.

    The latter leaves out the libraries, whose resident part changes with what else runs.
    """

    trials: int
    resident: float
    anonymous: float


def read_memory(trials: int) -> Memory:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, anonymous = (int(status[name].split()[0]) / 2**10 for name in ("VmRSS", "RssAnon"))
    return Memory(trials, resident, anonymous)


def build_context(folder: Path) -> TrialContext:
    config = load_config("quickstart")
    assert config.teacher is not None
    files = make_shapes(folder / "data", size=SIZE, **IMAGES)
    teacher = build_detector(
        model_config(config.teacher.config, config.teacher.cfg_options), "teacher"
    )
    teacher.init_weights()
    weights = folder / "teacher.pth"
    torch.save(teacher.state_dict(), weights)
    train, val = (
        Split(annotations=str(f), images=str(files.images)) for f in (files.train, files.val)
    )
    # So short a training leaves no score above mmdet's 0.05, and COCO's evaluation would not run.
    options = {**config.student.cfg_options, "model.test_cfg.score_thr": 0.0}
    task = Task(
        student=config.student.model_copy(update={"cfg_options": options}),
        teacher=config.teacher.model_copy(update={"checkpoint": str(weights)}),
        data=Data(train=train, image_size=(SIZE, SIZE)),
    )
    schedule = TrialSchedule(epochs=1, batch_size=BATCH, optim_wrapper=config.trial.optim_wrapper)
    return TrialContext.build(task, schedule, (train, val), seed=0)


def candidates(seed: int) -> Iterator[Distiller]:
    space, generator = SearchSpace.preset(), random.Random(seed)
    while True:
        for knowledge in space.knowledge:
            yield Distiller((space.random(knowledge, generator),))


def run_trials(context: TrialContext, trials: int, readings: list[int]) -> list[Memory]:
    """Memory after as many trials as ``readings`` says; prints what became of the trials."""
    memories, statuses = [], Counter[str]()
    started = time.perf_counter()
    for done, distiller in enumerate(islice(candidates(seed=0), trials), start=1):
        outcome = evaluate(context, distiller)
        if outcome.error:
            raise RuntimeError(f"{distiller}: {outcome.error}")
        statuses[outcome.status.value] += 1
        if done in readings:
            memories.append(read_memory(done))
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    print(f"{counts}; {(time.perf_counter() - started) / trials:.2f} s a trial")
    return memories


def report(memories: list[Memory]) -> None:
    base = memories[0]
    ratio = f"/ after {base.trials}"
    table = Table("after trials", "resident, MiB", ratio, "anonymous, MiB", ratio)
    for memory in memories:
        table.add_row(
            str(memory.trials),
            f"{memory.resident:.0f}",
            f"{memory.resident / base.resident:.3f}",
            f"{memory.anonymous:.0f}",
            f"{memory.anonymous / base.anonymous:.3f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help=f"trials in all, above {BASE}")
    parser.add_argument("--quick", action="store_true", help="40 trials")
    arguments = parser.parse_args()
    trials = 40 if arguments.quick else arguments.trials
    if trials <= BASE:
        parser.error(f"--trials is {trials}: memory is compared with that after {BASE}, give more")
    readings = sorted({BASE, *range(BASE + 40, trials, 40), trials})
    with tempfile.TemporaryDirectory(prefix="detkds-memory-") as folder:
        context = build_context(Path(folder))
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} thread; {trials} trials of "
            f"{IMAGES['train'] // BATCH} iterations, {BATCH} images of {SIZE}x{SIZE} each"
        )
        report(run_trials(context, trials, readings))


if __name__ == "__main__":
    main()
