"""What the distiller filter costs: seconds a candidate against a trial, and workers' time it takes.

The filter tries random candidates of a search's space on its stored batch, one trial trains.
A simulation with these seconds, or with given ones, then gives the share of the workers' time in
which no student trains: if the driver tries one candidate after the other while workers wait, as it
did up to version 0.2, and if each worker tries its own. The driver's filter is taken to be as fast
as the workers'.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from pathlib import Path

import torch
from contexts import build_context
from detkds.search.plans.plan import Plan, make_plan
from detkds.settings import load_config
from detkds.space import Distiller
from detkds.workers.filter import measure
from detkds.workers.rejection import Rejected
from detkds.workers.trial import TrialContext, evaluate
from rich.console import Console
from rich.table import Table
from spread import QUICK, spread

FORM = Distiller.parse("global: identity, pearson × 5; logits: norm_n, pearson × 2")


def timed_filter(plan: Plan, context: TrialContext, candidates: int) -> tuple[list[float], float]:
    """Seconds for each of so many random candidates, and the share that is rejected."""
    rng, seconds, rejected = random.Random(0), [], 0
    for _ in range(candidates):
        distiller = Distiller((plan.space.random(rng.choice(plan.space.knowledge), rng),))
        started = time.perf_counter()
        try:
            measure(context.batch, distiller)
        except Rejected:
            rejected += 1
        seconds.append(time.perf_counter() - started)
    return seconds, rejected / candidates


def timed_trial(context: TrialContext) -> float:
    """Seconds of a trial without the filter."""
    context.filtered = False
    outcome = evaluate(context, FORM)
    if not outcome.completed or outcome.seconds is None:
        raise RuntimeError(outcome.error or outcome.reason)
    return outcome.seconds


def lost(
    workers: int, filtering: float, training: float, rejected: float, *, by_driver: bool
) -> float:
    """The share of the workers' time in which none of 500 students trains.

    ``filtering`` and ``training``: seconds of the filter and of a trial; ``rejected``: the share of
    candidates that the filter rejects. Trials take up to a tenth more or less.
    """
    rng = random.Random(0)
    free, driver_free, trained, end = [0.0] * workers, 0.0, 0.0, 0.0
    for _ in range(500):
        now = heapq.heappop(free)
        tries = 1
        while rng.random() < rejected:
            tries += 1
        if by_driver:
            driver_free = max(now, driver_free) + tries * filtering
            now = driver_free
        else:
            now += tries * filtering
        length = training * rng.uniform(0.9, 1.1)
        trained += length
        heapq.heappush(free, now + length)
        end = max(end, now + length)
    # Workers that are done while the last ones train lose nothing to the filter.
    return 1 - trained / sum(free)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/filter"))
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8, help="of the simulation")
    parser.add_argument("--filter-seconds", type=float, help="simulate these, and measure nothing")
    parser.add_argument("--trial-seconds", type=float, help="beside --filter-seconds")
    parser.add_argument("--rejected", type=float, default=0.2, help="beside --filter-seconds")
    parser.add_argument("--quick", action="store_true", help="the quickstart's data cut down")
    arguments = parser.parse_args()
    console = Console(width=110)
    if arguments.filter_seconds is not None:
        if arguments.trial_seconds is None:
            parser.error("--filter-seconds stands beside --trial-seconds")
        times = arguments.filter_seconds, arguments.trial_seconds, arguments.rejected
    else:
        options = [*(QUICK if arguments.quick else []), *arguments.cfg_options]
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
        plan = make_plan(load_config(arguments.config, options), arguments.work_dir)
        context = build_context(plan)
        started = time.perf_counter()
        maps = context.batch.maps
        stored = time.perf_counter() - started
        seconds, rejected = timed_filter(
            plan, context, 20 if arguments.quick else arguments.candidates
        )
        trial = timed_trial(context)
        table = Table("", "the filter", "a trial", "the filter / a trial")
        times = sum(seconds) / len(seconds), trial, rejected
        ratio = [1e3 * one / trial for one in seconds]
        table.add_row(
            "a candidate",
            spread([1e3 * one for one in seconds], unit="ms"),
            f"{trial:.1f} s",
            spread(ratio, form=".2f", unit="‰"),
        )
        console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        console.print(table)
        console.print(
            f"{rejected:.0%} of {len(seconds)} candidates rejected; the batch of {len(maps[0])} "
            f"images is stored in {stored:.1f} s, once a worker"
        )
    table = Table("the filter runs", f"lost time of {arguments.workers} workers")
    for name, by_driver in (("in the driver", True), ("on the workers", False)):
        table.add_row(name, f"{lost(arguments.workers, *times, by_driver=by_driver):.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
