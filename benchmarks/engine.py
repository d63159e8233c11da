"""What Ray Tune adds to a trial: a worker kept from trial to trial against a fresh actor for each.

Trials do nothing, one worker runs them. Start-up is left out: a round's overhead per trial is the
time from its first outcome to its last, divided by the trials in between, less what the evaluator
takes when it is called in a loop. A fresh actor imports torch and mmdet anew: a trial needs them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import ray
import torch
from detkds.settings import Resources
from detkds.space import Candidate, Distiller, Outcome, Status
from detkds.workers.cluster import cluster
from detkds.workers.ray_engine import run_actors
from rich.console import Console
from rich.table import Table
from spread import spread

CALLS = 10_000  # calls of the evaluator in a plain loop


@dataclass
class Trials:
    """A source of ``number`` candidates that notes when each outcome arrives, in seconds."""

    number: int
    distiller: Distiller
    asked: int = 0
    told: list[float] = field(default_factory=list)

    def ask(self) -> Candidate | None:
        if self.asked == self.number:
            return None
        self.asked += 1
        return Candidate(self.asked - 1, "global", self.distiller)

    def started(self, candidate: Candidate, host: str, device: str) -> None:
        """The benchmark does not time starts."""

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        if not outcome.completed:
            raise RuntimeError(f"trial {candidate.number} did not complete: {outcome.error}")
        self.told.append(time.perf_counter())

    @property
    def done(self) -> bool:
        return len(self.told) == self.number


@dataclass(frozen=True)
class Round:
    """Seconds until a run's first outcome, and seconds per trial from there to its last."""

    start_up: float
    per_trial: float


def no_context() -> None:
    """A trial that does nothing needs no context."""


def no_op(context: None, candidate: Candidate) -> Outcome:
    return Outcome(Status.COMPLETED, score=0.0)


def run_round(distiller: Distiller, trials: int, *, reuse: bool) -> Round:
    source = Trials(trials, distiller)
    started = time.perf_counter()
    run_actors(source, {"cpu": 1, "gpu": 0}, 1, no_context, no_op, reuse=reuse)
    first, last = source.told[0], source.told[-1]
    return Round(first - started, (last - first) / (trials - 1))


def seconds_in_evaluator(distiller: Distiller) -> float:
    """Seconds of one call of the evaluator, in a plain loop without Ray."""
    candidate = Candidate(0, "global", distiller)
    started = time.perf_counter()
    for _ in range(CALLS):
        no_op(None, candidate)
    return (time.perf_counter() - started) / CALLS


def report(kept: list[Round], fresh: list[Round], evaluator: list[float]) -> None:
    table = Table("", "start-up", "overhead per trial")
    overheads = []
    for name, rounds in (("kept worker", kept), ("fresh actors", fresh)):
        overhead = [1e3 * (r.per_trial - e) for r, e in zip(rounds, evaluator, strict=True)]
        overheads.append(overhead)
        start_up = [r.start_up for r in rounds]
        table.add_row(name, spread(start_up, unit="s"), spread(overhead, unit="ms"))
    ratios = [theirs / ours for ours, theirs in zip(*overheads, strict=True)]
    table.add_row("fresh / kept", "", spread(ratios, unit="times"))
    console = Console()
    console.print(table)
    console.print(f"The evaluator alone: {spread([1e6 * e for e in evaluator], unit='µs')} a call.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved, of each kind")
    parser.add_argument("--trials", type=int, default=100, help="a round on a kept worker")
    parser.add_argument("--fresh-trials", type=int, default=4, help="a round on fresh actors")
    parser.add_argument("--quick", action="store_true", help="one round of 20 and 2 trials")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.trials, arguments.fresh_trials = 1, 20, 2
    print(
        f"torch {torch.__version__}, ray {ray.__version__}, 1 worker of 1 CPU; "
        f"{arguments.rounds} rounds of {arguments.trials} no-op trials on a kept worker, then "
        f"{arguments.fresh_trials} on fresh actors; median (least to most)"
    )
    distiller = Distiller.parse("global: identity, pearson × 5")
    kept, fresh, evaluator = [], [], []
    with cluster(Resources(dashboard=False)):
        for _ in range(arguments.rounds):
            kept.append(run_round(distiller, arguments.trials, reuse=True))
            fresh.append(run_round(distiller, arguments.fresh_trials, reuse=False))
            evaluator.append(seconds_in_evaluator(distiller))
    report(kept, fresh, evaluator)


if __name__ == "__main__":
    main()
