"""The tabular benchmark: what trials and full trainings of many distillers score.

    python benchmarks/table.py collect --problems quickstart --stages study trials
    python benchmarks/table.py collect --problems bccd --data shared/bccd
    python benchmarks/table.py status
    python benchmarks/table.py export --sizes

``collect`` may be killed and started again at any time; no more than the run at hand is lost. It
begins with the runs of the table that is shipped, where they were made under the same conditions.
Several processes may collect in one ``--work-dir``: each takes the next run that no other has.
The stage ``study`` measures the first distillers that the filter passes on every proxy and in full
trainings; the stage ``trials`` measures all distillers on one proxy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path

import torch
from contexts import build_context
from detkds import __version__
from detkds.detectors import register
from detkds.search.plans.full import final_section
from detkds.search.plans.keys import fingerprint
from detkds.search.plans.plan import Plan, make_data
from detkds.space import Distiller, Status, WrongUse
from detkds.workers.student import Inputs, build_inputs
from detkds.workers.trial import TrialContext
from filelock import FileLock
from measuring import filtered, gradient_sizes, run
from problems import PROBLEMS, VARIANTS, plan_of, space_of
from rich.console import Console
from rich.table import Table
from sampled import sampled
from table_log import Log
from table_rows import FILTER, FINAL, TABLE, Job, Run, Shared, read_table, write_table

#: Distillers of the study.
STUDY = 60
#: The seeds of trials. Full trainings have one more.
SEEDS = (0, 1)
#: The proxies whose trials are scored after every epoch. Others are scored at their end.
CURVES = ("scratch", "warm")
#: The runs of each distiller of the study, in the order of the collection: all distillers have the
#: runs of one round before any has those of the next. So it is with the seeds of ``trials``.
ROUNDS: list[list[tuple[str, int]]] = [
    [("scratch", 0), (FINAL, 0), ("short", 0), ("short", 1)],
    [(FINAL, 1), ("scratch", 1), ("warm", 0), ("warm_short", 0), ("few", 0)],
    [(FINAL, 2), ("warm", 1), ("warm_short", 1), ("few", 1)],
]


@dataclass
class Bench:
    """A problem as one process measures it. Teachers and their memories stay between runs."""

    problem: str
    folder: Path
    data: Path | None
    plans: dict[str, Plan] = field(default_factory=dict)
    contexts: dict[str, TrialContext] = field(default_factory=dict)
    _conditions: dict[str, str] = field(default_factory=dict)

    def plan(self, variant: str) -> Plan:
        if variant not in self.plans:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "making.lock"):
                plan = plan_of(self.problem, variant, self.folder, self.data)
                make_data(plan)
            register()
            self.plans[variant] = plan
        return self.plans[variant]

    def context(self, variant: str) -> TrialContext:
        """The context of a proxy's trials, after the trainings that they wait for."""
        if variant not in self.contexts:
            self.contexts[variant] = build_context(self.plan(variant))
        return self.contexts[variant]

    @cached_property
    def whole(self) -> Inputs:
        """What full trainings learn from, and the test split."""
        self.context("scratch")  # trains the teacher
        plan = self.plan("scratch")
        teachers = [plan.task.teacher] if plan.task.teacher else []
        return build_inputs(plan.task.student, teachers, plan.config.data, plan.train, plan.test)

    @cached_property
    def distillers(self) -> Sequence[Distiller]:
        """The distillers of the table."""
        return sampled(self.plan("scratch"))

    def conditions(self, kind: str) -> str:
        """The key of what the scores of runs of a kind depend on."""
        if kind not in self._conditions:
            variant = kind if kind in VARIANTS else "scratch"
            self.context(variant)  # trains what the scores depend on
            plan = self.plan(variant)
            schedule = final_section(plan).schedule.model_dump() if kind == FINAL else None
            self._conditions[kind] = fingerprint([plan.trial_conditions, schedule])
        return self._conditions[kind]

    def measure(self, job: Job) -> Run:
        if job.kind == FILTER:
            return filtered(self.context("scratch"), job.distiller)
        if job.kind != FINAL:
            one, whole = self.context(job.kind), job.kind in CURVES
            return run(one.task, one, job.distiller, one.schedule, job.seed, one.warmup, whole)
        plan = self.plan("scratch")
        schedule = final_section(plan).schedule
        return run(plan.task, self.whole, job.distiller, schedule, job.seed, every_epoch=False)


def passed(bench: Bench, log: Log) -> Iterator[Distiller]:
    """The distillers that the filter passes. What the filter finds is in the log."""
    for one in bench.distillers:
        job = Job(bench.problem, one, FILTER, 0)
        if not log.has(job):
            log.add(job, bench.measure(job))
        if log.status(job) is Status.COMPLETED:
            yield one


def runs_of(bench: Bench, log: Log, stage: str, proxy: str) -> Iterator[Job]:
    """The runs of a stage, in an order of which every beginning is of use."""
    rounds, chosen = ROUNDS, list(islice(passed(bench, log), STUDY))
    if stage == "trials":
        rounds, chosen = [[(proxy, seed)] for seed in SEEDS], list(passed(bench, log))
    for kinds in rounds:
        for one in chosen:
            yield from (Job(bench.problem, one, kind, seed) for kind, seed in kinds)


def take_known(
    log: Log, bench: Bench, shared: dict[str, Shared], rows: list[tuple[Job, Run]]
) -> None:
    """Add a table's runs that were made under the conditions of the collection."""
    ours = shared.get(bench.problem)
    if ours is None:
        return
    same = {kind for kind, key in ours.conditions.items() if key == bench.conditions(kind)}
    for job, found in rows:
        if job.problem == bench.problem and job.kind in same and not log.has(job):
            log.add(job, found)
    if FILTER in same and not log.sizes(bench.problem):
        log.add_sizes(bench.problem, ours.sizes)


def collect(arguments: argparse.Namespace, console: Console) -> None:
    """Make the runs that no process has made or is making."""
    torch.set_num_threads(1)
    log = Log(arguments.work_dir)
    folder = arguments.work_dir
    benches = {name: Bench(name, folder / name, arguments.data) for name in arguments.problems}
    known = read_table(arguments.known) if arguments.known.is_file() else ({}, [])
    for bench in benches.values():
        take_known(log, bench, *known)
        log.check(bench.problem, FILTER, bench.conditions(FILTER))
    made = 0
    for stage in arguments.stages:
        jobs = zip_longest(*(runs_of(one, log, stage, arguments.proxy) for one in benches.values()))
        for job in filter(None, chain.from_iterable(jobs)):
            if log.has(job):
                continue
            with log.claimed(job) as ours:
                if not ours:
                    continue
                bench = benches[job.problem]
                log.check(job.problem, job.kind, bench.conditions(job.kind))
                found = bench.measure(job)
                log.add(job, found)
            last = f"AP {found.epochs[-1].ap:.3f}" if found.epochs else found.reason or ""
            console.print(
                f"{job.name} {found.status.value} {found.cpu:.1f} s CPU {last[-300:]}",
                highlight=False,
            )
            made += 1
            if made == arguments.limit:
                return


def export(arguments: argparse.Namespace, console: Console) -> None:
    """Write all runs into the file that is shipped, with what is known of gradients' sizes."""
    log = Log(arguments.work_dir)
    runs = list(log.runs())
    shared = {}
    for name in sorted({job.problem for job, _ in runs}):
        bench = Bench(name, arguments.work_dir / name, arguments.data)
        space = space_of(bench.plan("scratch"))
        if arguments.sizes and not log.sizes(name):
            log.add_sizes(name, gradient_sizes(bench.context("scratch"), space))
        shared[name] = Shared(space, log.sizes(name), log.conditions(name))
    write_table(arguments.out, runs, shared, __version__)
    size = arguments.out.stat().st_size / 1024
    console.print(f"{len(runs)} runs, {size:.0f} KiB, in {arguments.out}", highlight=False)


def status(arguments: argparse.Namespace, console: Console) -> None:
    """How many runs there are of each kind, and what they cost."""
    counts: dict[tuple[str, str], list[Run]] = {}
    for job, found in Log(arguments.work_dir).runs():
        counts.setdefault((job.problem, job.kind), []).append(found)
    table = Table("problem", "kind", "runs", "rejected", "failed", "CPU a run, s", "clock a run, s")
    for (problem, kind), runs in counts.items():
        done = [one for one in runs if one.status is Status.COMPLETED]
        table.add_row(
            problem,
            kind,
            str(len(runs)),
            *(str(sum(r.status is s for r in runs)) for s in (Status.REJECTED, Status.FAILED)),
            *(f"{sum(s) / len(done):.1f}" if done else "" for s in _spent(done)),
        )
    console.print(table)


def _spent(runs: list[Run]) -> tuple[list[float], list[float]]:
    return [one.cpu for one in runs], [one.seconds for one in runs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["collect", "status", "export"])
    parser.add_argument("--work-dir", type=Path, default=Path("runs/table"))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["quickstart"])
    parser.add_argument("--data", type=Path, help="the folder of a problem with COCO files")
    parser.add_argument(
        "--stages", nargs="+", choices=["study", "trials"], default=["study", "trials"]
    )
    parser.add_argument("--proxy", choices=list(VARIANTS), default="scratch", help="of `trials`")
    parser.add_argument(
        "--known", type=Path, default=TABLE, help="a table whose runs `collect` need not make again"
    )
    parser.add_argument("--out", type=Path, default=TABLE, help="the file of `export`")
    parser.add_argument(
        "--sizes", action="store_true", help="`export` measures the sizes of all terms' gradients"
    )
    parser.add_argument("--limit", type=int, help="stop after so many runs")
    arguments = parser.parse_args()
    arguments.data = arguments.data and arguments.data.absolute()
    actions = {"collect": collect, "status": status, "export": export}
    try:
        actions[arguments.what](arguments, Console(width=120))
    except WrongUse as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
