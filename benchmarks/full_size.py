"""What each term costs at full size: memory and time of its loss, forward and backward.

The batch is that of ``full_size_batch.py``. The heads' outputs are held before a term is measured,
as the student's own loss holds them. A term's memory is its peak above them. Of it, the gradient in
what the student's head gives is listed apart: the student's own loss has a gradient of this size as
well, and autograd adds the two up in place.

Each term is compared with an alternative in the same run: response terms with the whole at once
(all levels side by side, all steps kept for the gradient; localization of all boxes, masked
afterwards), feature terms with maps whose padding counts. Each row is measured in a process of its
own, the two ways in turns. Batch 16 is the line through the two largest batches, where it was not
measured itself.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from full_size_batch import (
    ALTERNATIVE,
    CONFIGS,
    CROSS,
    FEATURES,
    OURS,
    RESPONSES,
    Row,
    ways,
)
from rich.console import Console
from rich.table import Table
from spread import spread

SIXTEEN = 16


@dataclass(frozen=True)
class Cost:
    """Of one term and one way: MiB at the peak, and seconds round by round."""

    peak: float
    gradient: float
    seconds: list[Any]


def measure(row: Row) -> dict[str, Cost]:
    """The cost of both ways: each peak in a process of its own, the times in turns in one."""
    found = {}
    for way in (ALTERNATIVE, OURS):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, gradient, times = pool.apply(_measure, (row, way, way == OURS))
        found[way] = Cost(peak, gradient, times)
    times = found[OURS].seconds
    return {
        way: Cost(cost.peak, cost.gradient, [pair[way] for pair in times])
        for way, cost in found.items()
    }


def _measure(row: Row, way: str, timed: bool) -> tuple[float, float, list[dict[str, float]]]:
    torch.set_num_threads(row.threads)
    leaves, steps = ways(row)
    gc.collect()
    peak = peak_of(steps[way], row.device)
    gradient = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None) / 2**20
    times = []
    for number in range(row.rounds if timed else 0):
        turns = list(steps)[:: 1 if number % 2 else -1]
        times.append({turn: seconds(steps[turn]) for turn in turns})
    return peak, gradient, times


def peak_of(run: Callable[[], None], device: str) -> float:
    """MiB at the peak of a step, above what was held before."""
    if device == "cuda":
        run()  # the first run of a kernel loads it
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the maximum so far starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """MiB of this process: now (VmRSS), or the maximum so far (VmHWM)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) / 2**10


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def table(rows: list[Row], out: Path | None) -> None:
    """Measure the rows of one family and number of classes, and print them."""
    first = rows[0]
    print(f"{first.family}, {first.classes} classes; MiB at the peak, and seconds of both ways")
    found = Table("term", "images", "peak", "without gradient", "alternative's", "s", "ratio of s")
    lines = []
    measured: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        costs = measure(row)
        ours, other = costs[OURS], costs[ALTERNATIVE]
        peaks = [ours.peak, ours.peak - ours.gradient, other.peak]
        measured.setdefault(row.term, {})[row.images] = peaks
        ratios = [a / b for a, b in zip(ours.seconds, other.seconds, strict=True)]
        cells = [row.term, str(row.images), *(f"{peak:,.0f}" for peak in peaks)]
        cells += [f"{statistics.median(ours.seconds):.3f}", spread(ratios, ".2f")]
        print("  ".join(cells), flush=True)  # a row takes a while
        lines.append(cells)
        more = at_sixteen(measured[row.term])
        if more and row.images == max(r.images for r in rows):
            lines.append([row.term, "16*", *(f"{peak:,.0f}" for peak in more), "", ""])
    for cells in lines:
        found.add_row(*cells)
    Console(width=120).print(found)
    if out is not None:
        write(out, first, [str(column.header) for column in found.columns], lines)


def at_sixteen(measured: dict[int, list[float]]) -> list[float]:
    """Peaks at batch 16 on the line through the two largest batches; none if it was measured."""
    if SIXTEEN in measured or len(measured) < 2:
        return []
    small, large = sorted(measured)[-2:]
    pairs = zip(measured[small], measured[large], strict=True)
    return [b + (b - a) / (large - small) * (SIXTEEN - large) for a, b in pairs]


def write(out: Path, row: Row, header: list[str], lines: list[list[str]]) -> None:
    """Append the table as Markdown."""
    where = torch.cuda.get_device_name() if row.device == "cuda" else "CPU"
    text = [f"\n{row.family}, {row.classes} classes, {where}, torch {torch.__version__}\n"]
    text += ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = torch.cuda.is_available()
    batches = (2, 4, 8, 16) if cuda else (2, 4)
    parser.add_argument("--family", choices=CONFIGS, default="retinanet")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--batches", type=int, nargs="+", default=batches)
    parser.add_argument("--terms", nargs="+", default=[*RESPONSES, *CROSS, *FEATURES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="append the table to this Markdown file")
    parser.add_argument("--quick", action="store_true", help="one image, few terms, one round")
    parser.add_argument("--need-gpu", action="store_true", help="without a GPU, do nothing")
    arguments = parser.parse_args()
    if arguments.need_gpu and not cuda:
        print("no GPU: the table of terms at full size is skipped")
        return
    device = "cuda" if cuda else "cpu"
    if arguments.quick:
        arguments.batches, arguments.rounds = [1], 1
        if arguments.terms == parser.get_default("terms"):
            arguments.terms = [RESPONSES[0], RESPONSES[-1], FEATURES[0]]
    where = torch.cuda.get_device_name() if cuda else f"{arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, {arguments.rounds} rounds")
    table(
        [
            Row(
                *(arguments.family, arguments.classes, images, term),
                *(arguments.rounds, arguments.threads, device),
            )
            for term in arguments.terms
            for images in sorted(arguments.batches)
        ],
        arguments.out,
    )


if __name__ == "__main__":
    main()
