"""Ray's layer: workers that die and trials that hang under searches of real Ray.

A search's session and store are the real ones, and so are Ray's cluster and workers; a trial trains
nothing. After each search, its outcomes are those of the same search without a fault.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from chaos_driver import told
from chaos_life import Job, score
from chaos_world import Broken, Say, Tally
from detkds.db import Store, TrialRow
from detkds.search.session import Session
from detkds.settings import Resources
from detkds.space import Candidate, Outcome, Status
from detkds.workers.cluster import cluster
from detkds.workers.ray_engine import run_actors
from detkds.workers.retries import Deadline
from ray.cluster_utils import Cluster

TRIALS = 8
#: What a trial that hangs or is lost would take, and the deadline that ends it, in seconds.
FOREVER, DEADLINE = 3600.0, 20.0
#: How long a search may take in all.
BOUND = 900.0

#: From the work folder and a candidate to what strikes on the worker; returns if nothing does.
Strikes = Callable[[Path, Candidate], None]


def outcome(candidate: Candidate) -> Outcome:
    """As the driver's layer has it, without failures, whose workers Ray would replace."""
    found = score(candidate)
    return found if found.status is not Status.FAILED else Outcome.rejected("loss above 100")


def nothing() -> None:
    """No context is needed."""


def tries(folder: Path, candidate: Candidate) -> int:
    """How often the candidate has been tried, this time included."""
    (folder / f"{candidate.number}-{time.monotonic_ns()}").touch()
    return len(list(folder.glob(f"{candidate.number}-*")))


def dies(folder: Path, candidate: Candidate) -> None:
    if candidate.number in (1, 4) and tries(folder, candidate) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def hangs(folder: Path, candidate: Candidate) -> None:
    if candidate.number == 2 and tries(folder, candidate) == 1:
        time.sleep(FOREVER)


class Watched(Session):
    """A session that keeps when trials begin."""

    def started(self, candidate: Candidate, host: str, device: str) -> None:
        super().started(candidate, host, device)
        self.starts = [*getattr(self, "starts", []), (candidate.number, time.monotonic())]


def unbroken(job: Job, store: Store) -> list[TrialRow]:
    """The same search by one worker, in this process."""
    search = store.create_search(f"{job.name}-unbroken", {}, "unbroken", job.seed)
    session = Session(job.controller(), store, search.id, f"{job.name}-unbroken", job.seed)
    while not session.done:
        candidate = session.ask()
        if candidate is not None:
            session.started(candidate, "host", "cpu")
            session.tell(candidate, outcome(candidate))
    return store.trials(search.id)


def strike(
    kind: str,
    faults: int,
    strikes: Strikes,
    tally: Tally,
) -> None:
    """One search of one worker under faults of one kind."""
    row = tally.row(kind)
    row.faults += faults
    with TemporaryDirectory(prefix="detkds-chaos-") as folder:
        job = Job("ray", "random", False, TRIALS, 1, f"sqlite:///{folder}/detkds.db", 7)
        marks = Path(folder, "marks")
        marks.mkdir()

        def evaluator(context: None, candidate: Candidate) -> Outcome:
            strikes(marks, candidate)
            return outcome(candidate)

        lines: list[str] = []
        began = time.monotonic()
        with Store(job.url) as store:
            search = store.create_search(job.name, {}, job.name, job.seed)
            session = Watched(job.controller(), store, search.id, job.name, job.seed)
            one_cpu = {"cpu": 1.0, "gpu": 0.0}
            deadline = Deadline(DEADLINE if strikes is hangs else None)
            run_actors(
                *(session, one_cpu, 1, nothing, evaluator),
                deadline=deadline,
                say=lines.append,
            )
            rows, other = store.trials(search.id), unbroken(job, store)
    took = time.monotonic() - began
    _check(kind, rows, other)
    repeated = len(session.starts) - len(rows)
    if repeated != faults:
        raise Broken(f"{kind}: {repeated} evaluations repeated by {faults} faults")
    if took > BOUND or lines:
        raise Broken(f"{kind}: {took:.0f} s; it said {lines}")
    row.survived += faults
    row.by_itself += faults
    row.repeated += repeated
    row.seconds += _seconds(session)
    tally.trials += len(rows)
    tally.searches += 1


def _check(kind: str, rows: list[TrialRow], other: list[TrialRow]) -> None:
    """One final state a candidate; all is as in the unbroken search."""
    if any(row.tell_order is None for row in rows):
        raise Broken(f"{kind}: the search is done, and a trial has no outcome")
    for row, unbroken in zip(rows, other, strict=True):
        have, want = told(row), told(unbroken)
        if have != want:
            raise Broken(f"{kind}: trial {row.number} is {have}, and unbroken {want}")


def _seconds(session: Watched) -> Iterator[float]:
    """From a try that came to nothing to the next start of its candidate, or of any."""
    starts: dict[int, float] = {}
    for number, when in session.starts:
        if number in starts:
            yield when - starts[number]
        starts[number] = when


@contextmanager
def nodes() -> Iterator[None]:
    """A cluster whose head has no place for a trial, and workers that find this module."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *sys.path])
    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        started.add_node(num_cpus=1)
        with cluster(Resources(address=started.address, cpus=1, gpus=0)):
            yield
    finally:
        started.shutdown()


def run(tally: Tally, say: Say) -> None:
    """All kinds of faults, one after the other. Raises :class:`Broken`."""
    with nodes():
        strike("Ray: a worker killed", 2, dies, tally)
        say("a worker killed")
        strike("Ray: a trial hangs", 1, hangs, tally)
        say("a trial hung")
