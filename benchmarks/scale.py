"""How far one driver scales: a simulated cluster under the controller and store of real searches.

Workers are simulated: a trial takes ten minutes of simulated time, more or less, and has a score by
chance. What a search does for a trial is done: it is asked for, stored, started, told and stored.
Shown are the share of the workers' time in which they have a trial, from the first ask to the last
outcome, and the driver's time for a trial; then, for one long search, time and memory at its end.
Ray is not in it: ``benchmarks/engine.py`` measures what Ray adds to a trial.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import tempfile
import time
from dataclasses import dataclass

from detkds.db import Store
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import Candidate, Outcome, SearchSpace, Status
from rich.console import Console
from rich.table import Table

#: Simulated seconds of a trial: the mean, and the share by which it is shorter or longer.
SECONDS, SPREAD = 600.0, 0.2


@dataclass(frozen=True)
class Simulated:
    """One search: the share of time in use, its simulated hours, the driver's seconds a trial."""

    trials: int
    in_use: float
    hours: float
    driver: float


def simulate(settings: Search, workers: int, store: Store, seed: int = 0) -> Simulated:
    """Run one search to its end on so many workers."""
    rng = random.Random(seed)
    space = SearchSpace.preset("detkds")
    search = store.create_search(f"{settings.algorithm}-{workers}", {}, "conditions", seed)
    controller = Controller(space, settings, seed)
    # Conditions of its own for each search: no trial is answered by an earlier search.
    session = Session(controller, store, search.id, f"conditions-{search.id}", seed)
    running: list[tuple[float, int, Candidate]] = []
    now = worked = 0.0
    trials = 0
    started = time.process_time()
    while not session.done:
        while len(running) < workers and (candidate := session.ask()) is not None:
            session.started(candidate, "host", "cuda:0")
            takes = SECONDS * rng.uniform(1 - SPREAD, 1 + SPREAD)
            worked += takes
            heapq.heappush(running, (now + takes, candidate.number, candidate))
        if not running:
            continue
        now, _, candidate = heapq.heappop(running)
        session.tell(candidate, Outcome(Status.COMPLETED, score=rng.random()))
        trials += 1
    driver = (time.process_time() - started) / max(trials, 1)
    return Simulated(trials, worked / (workers * now), now / 3600, driver)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,4,16,64,256,1000")
    parser.add_argument("--trials", type=int, default=100_000, help="of the long search")
    parser.add_argument("--quick", action="store_true", help="few workers and trials")
    options = parser.parse_args()
    counts = [int(count) for count in ("1,16" if options.quick else options.workers).split(",")]
    long = 300 if options.quick else options.trials
    paper = Search(start=[], space="detkds", early_stop=False)
    if options.quick:
        paper = paper.model_copy(update={"population": 4, "iterations": 4, "weights": 6})
    table = Table(title="The paper's search, trials of 10 minutes")
    for name in ("workers", "trials", "workers' time in use", "hours", "driver, ms a trial"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/scale.db") as store:
        for count in counts:
            one = simulate(paper, count, store)
            cells = f"{one.in_use:.1%}", f"{one.hours:.1f}", f"{1000 * one.driver:.2f}"
            table.add_row(str(count), str(one.trials), *cells)
        Console().print(table)
        endless = Search(
            algorithm="regularized_evolution", divide=False, trials=long, start=[], early_stop=False
        )
        one = simulate(endless, 64, store)
    # Linux counts in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"a search of {one.trials} trials on 64 workers: {one.in_use:.1%} in use, "
        f"{1000 * one.driver:.2f} ms a trial, {peak:.2f} GiB at most"
    )


if __name__ == "__main__":
    main()
