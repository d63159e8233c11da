"""What stopping trials early saves: a search is run once, then replayed with and without it.

The search is Algorithm 1 over DetKDS's space. It runs in this process, one trial after the other,
over the candidates that ``detkds search`` tries with one worker. Every trial is scored early and
trained to its end. The replays ask a fresh controller for the same candidates and tell it the
stored scores; the second stops trials as a search does. Simulated searches of the paper's size
follow. A search that is in ``--work-dir`` already is not run again.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from contexts import build_context
from detkds.cli.display import SearchDisplay
from detkds.db import Store, TrialRow
from detkds.search.controller import Controller
from detkds.search.plans.plan import Plan, make_plan
from detkds.search.session import Session
from detkds.settings import Search, load_config
from detkds.space import Candidate, Outcome, Status
from detkds.workers import runner, trial
from detkds.workers.runner import host_and_device
from detkds.workers.trial import TrialContext, evaluate
from rich.console import Console
from rich.table import Table
from spread import QUICK

NAME = "early_stop"
#: A trial's passes over the validation images.
PASSES = ("early", "final")
#: Algorithm 1 over DetKDS's space in 40 trials.
ALGORITHM1 = [
    *("search.algorithm=algorithm1", "search.divide=True", "search.trials=None"),
    *("search.space=detkds", "search.start=[]", "search.population=3", "search.iterations=1"),
    *("search.top_k=2", "search.weights=15"),
]
SMALL = ["search.knowledge=['global','logits']", "search.weights=6", "trial.epochs=2"]


# The search


@contextmanager
def timed_validation(passes: list[tuple[float, float]]) -> Iterator[None]:
    """Note when every pass over the validation images starts and ends."""
    score = runner.score

    def timed(*arguments: Any, **options: Any) -> dict[str, float]:
        started = time.perf_counter()
        found = score(*arguments, **options)
        passes.append((started, time.perf_counter()))
        return found

    runner.score = trial.score = timed
    try:
        yield
    finally:
        runner.score = trial.score = score


def evaluate_timed(context: TrialContext, candidate: Candidate) -> Outcome:
    """The outcome of a trial that is scored early and not stopped, with its parts' seconds."""
    passes: list[tuple[float, float]] = []
    started = time.perf_counter()
    with timed_validation(passes):
        outcome = evaluate(context, replace(candidate, early_bar=0.0))
    if outcome.error:
        raise RuntimeError(outcome.error)
    seconds = {
        f"seconds.{name}": end - begin for name, (begin, end) in zip(PASSES, passes, strict=False)
    }
    if passes:
        seconds["seconds.before"] = passes[0][0] - started
    return replace(outcome, metrics={**outcome.metrics, **seconds})


def run_search(plan: Plan, store: Store) -> None:
    """Run the search; a search that is in the store goes on where it stopped."""
    search = store.find_search(NAME)
    if search is not None and search.finished:
        return
    search = search or store.create_search(NAME, {}, plan.conditions, plan.seed)
    context = build_context(plan)
    controller = Controller(plan.space, plan.config.search, plan.seed)
    session = Session(controller, store, search.id, plan.trial_conditions, plan.seed)
    session.resume()
    with SearchDisplay("") as display:
        session.changed = lambda: display.search(session, controller.planned)
        while not session.done:
            candidate = session.ask()
            if candidate is not None:
                session.started(candidate, **host_and_device())
                session.tell(candidate, evaluate_timed(context, candidate))
    store.finish_search(search.id)


# The replays


@dataclass
class Replay:
    """What a search with or without early stopping does, and the seconds that it takes."""

    trials: int = 0
    stopped: int = 0
    validations: int = 0
    validating: float = 0.0
    seconds: float = 0.0
    #: The first trial that is not the stored one; the replay ends there.
    leaves_at: int | None = None
    best: TrialRow | None = None

    def add(self, row: TrialRow, looked_at: bool, stops: bool) -> None:
        """Count a trial that a worker runs."""
        parts = {name: row.metrics.get(f"seconds.{name}", 0.0) for name in (*PASSES, "before")}
        self.trials += 1
        self.stopped += stops
        self.validations += looked_at + (not stops and row.score is not None)
        self.validating += parts["early"] * looked_at + parts["final"] * (not stops)
        whole = (row.seconds or 0.0) - parts["early"] * (not looked_at)
        self.seconds += parts["before"] + parts["early"] if stops else whole


def told(row: TrialRow, bar: float | None) -> tuple[Outcome, bool]:
    """What a search is told of a stored trial under an early bar, and whether the bar stops it."""
    assert row.outcome is not None
    if bar is None:
        return replace(row.outcome, early_score=None), False
    if row.early_score is not None and row.early_score < bar:
        return Outcome(Status.STOPPED, early_score=row.early_score), True
    return row.outcome, False


def replay(plan: Plan, rows: list[TrialRow], early_stop: bool) -> Replay:
    """Go through the stored search, trial by trial, under another setting."""
    settings = plan.config.search.model_copy(update={"early_stop": early_stop})
    controller, found = Controller(plan.space, settings, plan.seed), Replay()
    whole: dict[str, bool] = {}  # whether the replay has trained a distiller to its end
    for row in rows:
        candidate = controller.ask()
        if candidate != row.candidate:
            found.leaves_at = row.number
            break
        outcome, stops = told(row, candidate.early_bar)
        if row.key not in whole or (not stops and not whole[row.key]):
            checked = candidate.early_bar is not None and row.early_score is not None
            found.add(row, checked, stops)
            whole[row.key] = not stops
        elif whole[row.key]:  # a score that is known answers before a worker does
            outcome = row.outcome or outcome
        controller.tell(candidate, outcome)
    if controller.best is not None:
        number = controller.best[0].number
        found.best = next(row for row in rows if row.number == number)
    return found


def simulate(plan: Plan, rows: list[TrialRow], seed: int) -> tuple[bool, Replay, Replay]:
    """A search of the paper's size without and with early stopping, and whether the best is equal.

    Every distiller comes out as one of the stored trials does, drawn at random.
    """
    scored = [row for row in rows if row.score is not None and row.early_score is not None]
    found, best = (Replay(), Replay()), []
    for early_stop, costs in zip((False, True), found, strict=True):
        controller = Controller(plan.space, Search(early_stop=early_stop), seed)
        while not controller.done:
            candidate = controller.ask()
            assert candidate is not None
            row = random.Random(f"{seed}/{candidate.distiller.key}").choice(scored)
            outcome, stops = told(row, candidate.early_bar)
            costs.add(row, candidate.early_bar is not None, stops)
            controller.tell(candidate, outcome)
        best.append(controller.best and controller.best[0])
    return best[0] == best[1], *found


def report(whole: Replay, early: Replay) -> None:
    table = Table("search", "trials", "stopped", "validations", "validating, s", "in all, s")
    for name, one in (("without", whole), ("with early stopping", early)):
        counts = (one.trials, one.stopped, one.validations)
        table.add_row(name, *map(str, counts), f"{one.validating:.1f}", f"{one.seconds:.1f}")
    ratios = (early.validating / whole.validating, early.seconds / whole.seconds)
    table.add_row("with / without", "", "", "", *(f"{ratio:.2f}" for ratio in ratios))
    console = Console(width=120)
    console.print(table)
    left = early.leaves_at
    same = "the same candidates" if left is None else f"other candidates from trial {left} on"
    assert whole.best is not None
    assert early.best is not None
    winner = "the same best" if early.best == whole.best else "ANOTHER BEST"
    console.print(f"with early stopping: {same}, {winner}")
    for name, best in (("without", whole.best), ("with", early.best)):
        text = best.notation.replace("\n", "; ")
        console.print(f"{name}: trial {best.number}, AP {best.score:.4f}, {text}", highlight=False)


def report_simulations(simulations: list[tuple[bool, Replay, Replay]]) -> None:
    equal = sum(same for same, _, _ in simulations)
    stopped = sum(early.stopped for _, _, early in simulations)
    trials, validating, seconds = (
        [sum(getattr(one[place], name) for one in simulations) for place in (1, 2)]
        for name in ("trials", "validating", "seconds")
    )
    print(
        f"the paper's search, {len(simulations)} simulations with these trials' scores: the same "
        f"best in {equal}, {stopped / trials[1]:.0%} of the trials stopped, validating "
        f"{validating[1] / validating[0]:.2f} and in all {seconds[1] / seconds[0]:.2f} of the time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/early_stop"))
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument(
        "--simulations", type=int, default=20, help="searches of the paper's size to simulate"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two kinds of knowledge, the quickstart's data cut down",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.simulations = 1
    small = [*QUICK, *SMALL] if arguments.quick else []
    options = [*ALGORITHM1, *small, *arguments.cfg_options]
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    plan = make_plan(load_config(arguments.config, options), arguments.work_dir)
    with Store(f"sqlite:///{arguments.work_dir}/detkds.db") as store:
        run_search(plan, store)
        rows = store.trials(store.search(NAME).id)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(rows)} trials")
    early = replay(plan, rows, early_stop=True)
    report(replay(plan, rows[: early.leaves_at], early_stop=False), early)
    report_simulations([simulate(plan, rows, seed) for seed in range(arguments.simulations)])


if __name__ == "__main__":
    main()
