"""Simulated searches on the table: how many trials an algorithm takes to find something good.

A search has reached the goal once the candidate that leads it is expected to score above 99 % of
the table's distillers. A candidate leads by its score, and so by its luck; what is expected of it
has none (see ``Tabular.expected``). Shown are medians over searches under different seeds, with
bootstrap bands of 90 %, and what the leading candidate is worth after so many trials.

An algorithm is a name of ``search.algorithm``, with settings of the section ``search`` after it:
``algorithm1,population=10,iterations=20``.
"""

from __future__ import annotations

import argparse
import ast
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detkds.search.algorithms import check_algorithm_name
from detkds.search.controller import Controller
from detkds.search.plans.start import start_distillers
from detkds.settings import Search
from detkds.space import PLAIN, WrongUse
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table
from table_rows import TABLE
from tabular import Tabular

#: After so many trials it is shown what the leading candidate is worth.
LOOKS = (20, 40, 80, 160)


@dataclass(frozen=True)
class Simulation:
    """One search: by trial, what the leading candidate is expected to score; its seconds."""

    worth: np.ndarray
    seconds: float

    def reached(self, goal: float) -> float:
        """The number of the trial that reached the goal, from 1; infinite if none did."""
        there = np.flatnonzero(self.worth >= goal)
        return float(there[0] + 1) if len(there) else np.inf


def simulate(table: Tabular, settings: Search, seed: int, budget: int) -> Simulation:
    """Run a search with the controller that real searches have, up to so many trials.

    A rejected candidate is no trial: it costs next to nothing.
    """
    started = time.perf_counter()
    space = table.space if settings.weight_unit == PLAIN else table.space.in_shares()
    start = start_distillers(settings.start, table.space, store=None)
    controller = Controller(space, settings, seed, start)
    worth: list[float] = []
    leader, value = None, 0.0
    while not controller.done and len(worth) < budget:
        candidate = controller.ask()
        assert candidate is not None  # nothing is waited for
        outcome = table.outcome(candidate, seed)
        controller.tell(candidate, outcome)
        if not outcome.ranked:
            continue
        if controller.best is not None and controller.best[0] != leader:
            leader = controller.best[0]
            value = float(table.expected(leader.distiller)[-1])
        worth.append(value)
    return Simulation(np.array(worth), time.perf_counter() - started)


def goal_of(table: Tabular, percentile: float) -> float:
    """What so many of a hundred of the table's distillers are expected to stay below."""
    expected = [table.expected(table.distillers[key])[-1] for key in table.trials]
    return float(np.percentile(expected, percentile))


def read_algorithm(text: str) -> Search:
    """The settings of ``NAME,setting=value,...``. Raises :class:`WrongUse` for wrong ones."""
    name, *options = text.split(",")
    check_algorithm_name(name)
    read = {key: _value(value) for key, _, value in (one.partition("=") for one in options)}
    try:
        return Search.model_validate({**read, "algorithm": name})
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongUse(f"{text}: {first['loc'][0]}: {first['msg']}", "--algorithms") from None


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def median_band(values: np.ndarray, rng: np.random.Generator) -> str:
    """The median and, in brackets, the bootstrap's band of it; infinite values are ``never``."""
    drawn = np.median(rng.choice(values, (1000, len(values))), axis=1)
    low, high = np.percentile(drawn, (5, 95), method="nearest")
    return f"{_trials(np.median(values))} ({_trials(low)} to {_trials(high)})"


def _trials(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "never"


def worth_after(simulations: list[Simulation], trials: int) -> str:
    """The median worth of what leads after so many trials, and the middle half; AP in points."""
    worth = [100 * one.worth[min(trials, len(one.worth)) - 1] for one in simulations]
    middle, low, high = np.percentile(worth, (50, 25, 75))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=["random", "algorithm1"])
    parser.add_argument("--problem", default="quickstart")
    parser.add_argument("--proxy", default="scratch")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument(
        "--trials", type=Path, help="add the trials of a `detkds trials --csv` file"
    )
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--budget", type=int, default=400, help="trials of a search at most")
    parser.add_argument("--percentile", type=float, default=99)
    arguments = parser.parse_args()
    console, rng = Console(width=140), np.random.default_rng(0)
    settings = {text: read_algorithm(text) for text in arguments.algorithms}
    table = Tabular.load(arguments.problem, arguments.proxy, arguments.table)
    if arguments.trials is not None:
        before = len(table.runs)
        table = table.with_trials(arguments.trials)
        console.print(f"{len(table.runs) - before} trials added")
    quality = ", ".join(f"{name} {value:.3g}" for name, value in table.quality().items())
    console.print(f"the surrogate, each distiller predicted from the others: {quality}")
    goal = goal_of(table, arguments.percentile)
    shown = Table(
        Column("algorithm", overflow="fold"),
        f"trials to AP {100 * goal:.1f}",
        "reach it",
        *(f"AP after {look}" for look in LOOKS),
        "ms a trial",
    )
    for text, own in settings.items():
        found = [simulate(table, own, seed, arguments.budget) for seed in range(arguments.searches)]
        reached = np.array([one.reached(goal) for one in found])
        spent = 1000 * sum(one.seconds for one in found) / sum(len(one.worth) for one in found)
        shown.add_row(
            text,
            median_band(reached, rng),
            f"{np.isfinite(reached).mean():.0%}",
            *(worth_after(found, look) for look in LOOKS),
            f"{spent:.2f}",
        )
    console.print(shown)


if __name__ == "__main__":
    main()
