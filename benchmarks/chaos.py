"""Searches that survive: short trials, struck by fault after fault until the searches are done.

The driver's layer has the real controller, session, store and lease under simulated workers, on
SQLite and on PostgreSQL; Ray's layer has real workers of a real cluster under trials without a
training. Ends with exit code 1 at the first promise that does not hold, and says which search and
which faults repeat it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import chaos_driver
from chaos_world import Broken, Say, Tally, World, postgresql
from rich.console import Console
from rich.table import Table

COLUMNS = ("faults", "survived", "by itself", "repeated", "lost", "median, s", "longest, s")


def shown(tally: Tally) -> Table:
    """A row a kind of fault.

    survived: unattended, where a supervisor repeats the command with ``--resume``; by itself: the
    driver that was struck went on. repeated: evaluations; lost: outcomes; then the seconds from
    the fault to the next outcome.
    """
    table = Table(title=f"{tally.trials} trials of {tally.searches} searches under faults")
    table.add_column("fault")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for kind, row in sorted(tally.rows.items()):
        seconds = [f"{median(row.seconds):.1f}", f"{max(row.seconds):.1f}"] if row.seconds else []
        shares = (f"{count / row.faults:.0%}" for count in (row.survived, row.by_itself))
        table.add_row(kind, str(row.faults), *shares, str(row.repeated), str(row.lost), *seconds)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="of the driver's layer, about")
    parser.add_argument("--faults", type=int, default=250, help="of the driver's layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", nargs="+", choices=("driver", "ray"), default=["driver", "ray"])
    parser.add_argument(
        "--postgres", action=argparse.BooleanOptionalAction, default=True, help="half of the faults"
    )
    parser.add_argument("--quick", action="store_true", help="few faults, on SQLite alone")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.faults, options.postgres = 120, 30, False
    tally, began, broken = Tally(), time.monotonic(), None

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        if "driver" in options.layers:
            drivers(options, tally, say)
        if "ray" in options.layers:
            import chaos_ray

            chaos_ray.run(tally, say)
    except Broken as error:
        broken = error
    Console(width=110).print(shown(tally))
    if broken is not None:
        sys.exit(f"seed {options.seed}: {broken}")


def drivers(options: argparse.Namespace, tally: Tally, say: Say) -> None:
    """The driver's layer on each database, which share the faults."""
    share = 2 if options.postgres else 1
    sizes = options.faults // share, options.trials // share
    with TemporaryDirectory(prefix="detkds-chaos-") as folder:
        os.chmod(folder, 0o755)  # a driver that may not write the store is another user
        world = World(f"sqlite:///{Path(folder)}/detkds.db")
        chaos_driver.run(*sizes, world, options.seed, tally, say=say)
    if options.postgres:
        with postgresql() as world:
            chaos_driver.run(*sizes, world, options.seed, tally, say=say)


if __name__ == "__main__":
    main()
