"""Schedules of the learning rate that fit a training, however short it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .models import Schedule

#: A warm-up that has no room takes this part of the training.
WARM_UP_PART = 10
#: What the types of warm-ups begin with, in mmengine and mmdet; LR or Momentum follows.
_WARM_UPS = ("Linear", "Constant", "QuadraticWarmup")

Scheduler = dict[str, Any]


def iterations_of(schedule: Schedule, images: int) -> int:
    """The iterations of a training on so many images."""
    step = schedule.batch_size * schedule.processes
    return schedule.epochs * -(-images // step)


def fitted(
    schedulers: Iterable[Mapping[str, Any]], epochs: int, iterations: int
) -> tuple[list[Scheduler], list[str]]:
    """mmengine's schedulers for a training of ``epochs`` and ``iterations``, and what changed.

    mmengine refuses a scheduler that begins where the training has ended. So a warm-up that has no
    end within the training takes a tenth of it, rounded down, and what followed the warm-up begins
    there; a scheduler that would begin later is left out. The others stay as they are.

    >>> linear = {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 10}
    >>> cosine = {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 10}
    >>> found, changes = fitted([linear, cosine], epochs=1, iterations=10)
    >>> [(one["begin"], one.get("end")) for one in found]
    [(0, 1), (1, None)]
    >>> changes
    ['the warm-up (LinearLR) takes 1 of 10 iterations, not 10']
    """
    given: list[Scheduler] = json.loads(json.dumps(list(schedulers)))
    changes: list[str] = []
    shortened: dict[tuple[bool, int], int] = {}  # new ends by the unit and the old end
    totals = {True: epochs, False: iterations}
    begins = {(own.get("by_epoch", True), own.get("begin")) for own in given}
    for own in given:
        if not is_warm_up(own):
            continue
        unit, end = own.get("by_epoch", True), own["end"]
        if end > totals[unit] or (end == totals[unit] and (unit, end) in begins):
            shortened[unit, end] = own["end"] = totals[unit] // WARM_UP_PART
            changes.append(
                f"the warm-up ({own['type']}) takes {own['end']} of {_counted(totals[unit], unit)}"
                f", not {end}"
            )
    kept = []
    for own in given:
        unit = own.get("by_epoch", True)
        begin = own.get("begin") or 0
        if begin:
            begin = own["begin"] = shortened.get((unit, begin), begin)
        if begin >= totals[unit]:
            changes.append(
                f"{own.get('type')}, which begins after {_counted(begin, unit)}, is left out: the "
                f"training has {_counted(totals[unit], unit)}"
            )
        elif own.get("end") != 0:  # a warm-up of no iteration
            kept.append(own)
    return kept, changes


def is_warm_up(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler is there from the start, ends, and raises what it schedules."""
    kind = str(scheduler.get("type")).rpartition(".")[2]
    rises = scheduler.get("start_factor", 0) < scheduler.get("end_factor", 1)
    ends = bool(scheduler.get("end")) and not scheduler.get("begin")
    return ends and kind.startswith(_WARM_UPS) and rises


def _counted(count: int, by_epoch: bool) -> str:
    unit = "epoch" if by_epoch else "iteration"
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
