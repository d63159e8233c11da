"""The engine on a real Ray cluster: workers that die, sources that raise, nodes that join."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import importable_by_workers
from detkds.settings import Resources
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from detkds.workers import retries
from detkds.workers.cluster import cluster, fits, per_trial, room
from detkds.workers.ray_engine import run_actors
from detkds.workers.retries import Deadline
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

DISTILLER = Distiller.parse("global: identity, pearson × 5")
ONE_CPU = {"cpu": 1, "gpu": 0}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A joined cluster whose head has one CPU; Ray counts declared devices and touches none."""
    with importable_by_workers():
        started = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "num_gpus": 2, "include_dashboard": False},
        )
        with cluster(Resources(address=started.address)):
            yield started
        started.shutdown()


@dataclass
class Candidates:
    """A source of ``number`` candidates that keeps the outcomes."""

    number: int
    on_start: Callable[[int], None] = lambda number: None
    on_tell: Callable[[int], None] = lambda number: None
    early_bar: float | None = None
    asked: int = 0
    most: int = 0
    starts: list[tuple[int, str, str]] = field(default_factory=list)
    told: dict[int, Outcome] = field(default_factory=dict)

    def ask(self) -> Candidate | None:
        if self.asked == self.number:
            return None
        self.asked += 1
        self.most = max(self.most, self.asked - len(self.told))
        return Candidate(self.asked - 1, "global", DISTILLER, self.early_bar)

    def started(self, candidate: Candidate, host: str, device: str) -> None:
        self.starts.append((candidate.number, host, device))
        self.on_start(candidate.number)

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self.told[candidate.number] = outcome
        self.on_tell(candidate.number)

    @property
    def done(self) -> bool:
        return len(self.told) == self.number


def nothing() -> None:
    """No context is needed."""


def completed() -> Outcome:
    return Outcome(Status.COMPLETED, score=0.5, metrics={"pid": os.getpid()})


def run(source: Any, evaluator: Callable[[Any, Candidate], Outcome], **more: Any) -> Any:
    run_actors(source, ONE_CPU, None, nothing, evaluator, **more)
    return source


# Workers that fail


@pytest.fixture(scope="module")
def faults(nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """Trials 0 to 5: one kills its worker once, one always, one raises; the others complete."""
    folder = tmp_path_factory.mktemp("deaths")

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        (folder / f"{candidate.number}-{os.getpid()}").touch()
        tries = len(list(folder.glob(f"{candidate.number}-*")))
        if candidate.number == 3 or (candidate.number == 1 and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if candidate.number == 4:
            raise OSError("No space left on device")
        return completed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "RETRIES", 1)
        return run(Candidates(6), evaluator)


def test_a_candidate_whose_worker_dies_is_tried_again(faults: Candidates) -> None:
    assert [number for number, _, _ in faults.starts].count(1) == 2
    assert faults.told[1].status is Status.COMPLETED
    assert list(faults.told) == [0, 1, 2, 3, 4, 5], "it is served before the next"


def test_one_whose_workers_all_die_is_told_as_failed(faults: Candidates) -> None:
    outcome = faults.told[3]
    assert [number for number, _, _ in faults.starts].count(3) == 2
    assert outcome.status is Status.FAILED
    assert f"its worker died 2 times, the last on {HOST}: " in (outcome.error or "")
    assert "worker process has died" in (outcome.error or ""), "Ray's reason"


HOST = socket.gethostname()


def test_failures_say_where(faults: Candidates) -> None:
    assert "No space left on device" in (faults.told[4].error or "")
    assert [number for number, _, _ in faults.starts].count(4) == 1
    for number in (3, 4):
        assert (faults.told[number].host, faults.told[number].device) == (HOST, "cpu")
    assert {(host, device) for _, host, device in faults.starts} == {(HOST, "cpu")}


def test_a_worker_is_kept_until_something_fails_on_it(faults: Candidates) -> None:
    pids = {n: outcome.metrics.get("pid") for n, outcome in faults.told.items()}
    assert pids[1] == pids[2], "kept"
    assert pids[5] not in (pids[0], pids[1], None)


def test_no_more_is_asked_for_than_there_is_room_for(faults: Candidates) -> None:
    assert faults.most == 1


def test_a_worker_knows_its_candidates_bar_and_may_stop_the_trial(nodes: Cluster) -> None:
    def evaluator(context: None, candidate: Candidate) -> Outcome:
        return Outcome(Status.STOPPED, early_score=candidate.early_bar)

    source = run(Candidates(1, early_bar=0.1 + 0.2), evaluator)
    assert source.told == {0: Outcome(Status.STOPPED, early_score=0.1 + 0.2)}


@pytest.fixture(scope="module")
def slow_and_large(nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """Half a CPU each: trial 0 hangs once, trial 1 needs all memory, trial 2 completes."""
    folder = tmp_path_factory.mktemp("hangs")

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        (folder / f"{candidate.number}-{os.getpid()}").touch()
        tries = len(list(folder.glob(f"{candidate.number}-*")))
        if candidate.number == 0 and tries == 1:
            time.sleep(600)
        if candidate.number == 1 and tries == 1:
            raise MemoryError
        running = folder / f"running-{candidate.number}"
        running.touch()
        beside = len(list(folder.glob("running-*"))) - 1
        time.sleep(0.5)
        running.unlink()
        return Outcome(Status.COMPLETED, score=float(beside))

    source = Candidates(3)
    run_actors(source, {"cpu": 0.5, "gpu": 0}, None, nothing, evaluator, deadline=Deadline(10))
    return source


def test_a_trial_that_hangs_is_tried_by_another_worker(slow_and_large: Candidates) -> None:
    assert [number for number, _, _ in slow_and_large.starts].count(0) == 2
    assert slow_and_large.told[0].completed


def test_after_too_little_memory_a_trial_is_alone_on_its_node(slow_and_large: Candidates) -> None:
    assert [number for number, _, _ in slow_and_large.starts].count(1) == 2
    assert slow_and_large.told[1].score == 0, "nothing ran beside it"


def test_how_far_a_trial_is_can_be_seen_while_it_runs(nodes: Cluster, tmp_path: Path) -> None:
    def evaluator(context: None, candidate: Candidate) -> Outcome:
        (tmp_path / "running").touch()
        deadline = time.monotonic() + 300
        while not (tmp_path / "seen").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Outcome(Status.COMPLETED, score=float((tmp_path / "seen").exists()))

    def look() -> None:
        if (tmp_path / "running").exists():
            (tmp_path / "seen").touch()

    assert run(Candidates(1), evaluator, on_look=look).told[0].score == 1


# Sources that raise


@pytest.mark.parametrize("step", ["ask", "started", "tell"])
def test_what_a_source_raises_comes_out_as_itself(nodes: Cluster, step: str) -> None:
    source = Candidates(3)
    message = "another process runs the search 'a'"

    def fail(*_: Any) -> None:
        raise WrongUse(message)

    setattr(source, step, fail)
    with pytest.raises(WrongUse, match=message):
        run(source, lambda context, candidate: completed())


# Clusters


def test_a_gpu_is_used_without_being_asked_for(nodes: Cluster) -> None:
    assert per_trial(Resources()) == {"cpu": 1, "gpu": 1.0}
    assert per_trial(Resources(gpus=0.5, cpus=2)) == {"cpu": 2, "gpu": 0.5}
    assert per_trial(Resources(gpus=0)) == {"cpu": 1, "gpu": 0}


@pytest.mark.parametrize(
    ("cpu", "gpu", "expected"),
    [(1, 0, 16), (0.1, 0, 160), (10, 0, 1), (1, 1, 4), (1, 0.4, 8), (5, 0.5, 3), (32, 1, 0)],
)
def test_workers_that_fit_on_a_node(cpu: float, gpu: float, expected: int) -> None:
    assert fits({"CPU": 16.0, "GPU": 4.0, "memory": 1e9}, {"cpu": cpu, "gpu": gpu}) == expected


def test_nodes_that_join_later_are_used(nodes: Cluster, tmp_path: Path) -> None:
    """The first trial waits for the second, which has no room until a node joins."""

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        (tmp_path / str(candidate.number)).touch()
        deadline = time.monotonic() + 600
        while not (tmp_path / "1").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return Outcome(Status.COMPLETED, score=float((tmp_path / "1").exists()))

    joined: list[Any] = []

    def join(number: int) -> None:
        if number == 0:
            joined.append(nodes.add_node(num_cpus=1))

    assert room(ONE_CPU) == 1
    source = run(Candidates(2, on_start=join), evaluator)
    assert source.told[0].score == 1
    assert source.most == room(ONE_CPU) == 2
    nodes.remove_node(joined[0])


def test_a_node_that_fails_what_others_complete_is_put_aside(
    nodes: Cluster, tmp_path: Path
) -> None:
    """Without it, the bad node would spend the search: it is done with each trial at once."""
    joined = nodes.add_node(num_cpus=1)
    bad = joined.node_id

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        if ray.get_runtime_context().get_node_id() == bad:
            (tmp_path / str(candidate.number)).touch()
            raise OSError("No space left on device")
        deadline = time.monotonic() + 300
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return completed()

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "FAULTS_OF_A_NODE", 1)
        source = run(Candidates(4), evaluator, say=lines.append)
    assert {outcome.status for outcome in source.told.values()} == {Status.COMPLETED}
    assert lines == [f"node {HOST} is put aside: it failed 1 that other nodes completed"]
    assert len(source.starts) == 4 + 1
    nodes.remove_node(joined)


def test_a_lost_node_is_no_failure_of_its_candidate(nodes: Cluster, tmp_path: Path) -> None:
    """As spot machines that are taken away, here more often than a worker may die."""
    joined = [nodes.add_node(num_cpus=2)]

    def lose(number: int) -> None:
        if len(joined) < 3:
            joined.append(nodes.add_node(num_cpus=2))
            nodes.remove_node(joined[-2], allow_graceful=False)

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        if len(list(tmp_path.iterdir())) < 2:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(600)
        return completed()

    source = Candidates(1, on_start=lose)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "RETRIES", 1)
        run_actors(source, {"cpu": 2, "gpu": 0}, None, nothing, evaluator)
    assert len(source.starts) == 3
    assert source.told[0].completed
    nodes.remove_node(joined[-1])
