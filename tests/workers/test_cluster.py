"""The checks of a cluster before it is used, and tasks whose workers die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
import tiny
from conftest import importable_by_workers
from detkds.db import Store
from detkds.search.plans import trainings as search_trainings
from detkds.search.plans.plan import make_plan
from detkds.search.plans.trainings import train_all
from detkds.settings import Resources, load_config
from detkds.space import Outcome, SearchFailed, Status, WrongUse
from detkds.workers import retries
from detkds.workers.cluster import alive, check_shared, cluster
from detkds.workers.tasks import run_job, run_trainings
from detkds.workers.training import Training, train
from filelock import FileLock
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

SMALL = Resources(cpus=1, gpus=0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Two nodes: one with two CPUs, one with one."""
    with importable_by_workers():
        started = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
        )
        started.add_node(num_cpus=1)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def joined(nodes: Cluster) -> Iterator[Cluster]:
    with cluster(Resources(address=nodes.address)):
        yield nodes


# Checks


@pytest.mark.parametrize(("cpus", "gpus", "most"), [(3, 0, "2"), (1, 1, "0")])
def test_a_trial_runs_on_one_node(nodes: Cluster, cpus: float, gpus: float, most: str) -> None:
    """The cluster has three CPUs; no node has three."""
    asked = Resources(address=nodes.address, cpus=cpus, gpus=gpus)
    with pytest.raises(WrongUse, match=f"the cluster's largest node has {most}"), cluster(asked):
        pass


def test_without_an_address_no_other_ray_is_joined(
    nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    with cluster(Resources(dashboard=False)):
        assert len(alive()) == 1
        assert ray.get_runtime_context().gcs_address != nodes.address


def test_a_node_that_does_not_see_the_work_folder_is_named(joined: Cluster, tmp_path: Path) -> None:
    """A node with its own file system at the work folder's place, as another machine has."""
    check_shared(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())
    start = f"ray start --address={joined.address} --num-cpus=1 --disable-usage-stats --block"
    mount = f"mount -t tmpfs none {tmp_path} && exec {Path(sys.executable).parent}/{start}"
    blind = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", mount],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while len(alive()) < 3:
            if blind.poll() is not None:
                pytest.skip("no file system can be mounted here")
            time.sleep(0.2)
        with pytest.raises(WrongUse, match=r"^work_dir: .*made: node\(s\) .* don't see"):
            check_shared(tmp_path / "made")
    finally:
        with suppress(ProcessLookupError):  # nothing can be mounted, and the process has ended
            os.killpg(blind.pid, signal.SIGTERM)
        blind.wait()
    while len(alive()) > 2:
        time.sleep(0.2)


# Tasks


def training(folder: Path, name: str) -> Training:
    plan = make_plan(load_config("quickstart", tiny.OPTIONS), folder.parent)
    return plan.teacher.model_copy(update={"name": name, "folder": str(folder / name)})


def fake_train(training: Training) -> Outcome:
    """Fails, dies, hangs, or dies twice after a step each, as the training's name says."""
    folder = Path(training.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()
    tries = len(list(folder.glob("[0-9]*")))
    if training.name == "advances":
        (folder / "progress.json").write_text(f"[{tries}, 4]")
    if training.name == "dies" or (training.name == "advances" and tries < 3):
        os.kill(os.getpid(), signal.SIGKILL)
    if training.name == "hangs":
        time.sleep(600)
    if training.name == "fails":
        return Outcome.failed("Traceback:\nOSError: no space", host="node-7")
    return Outcome(Status.COMPLETED, score=0.5)


class Silent:
    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None:
        """The test needs no display."""

    def say(self, text: str) -> None:
        """As above."""


def test_siblings_of_a_failed_training_finish_and_all_that_failed_are_named(
    joined: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load_config("quickstart", tiny.OPTIONS), tmp_path)
    plan = replace(
        plan,
        config=plan.config.model_copy(
            update={"resources": SMALL.model_copy(update={"training_deadline": 3})}
        ),
    )
    four = [training(tmp_path, name) for name in ("fails", "dies", "hangs", "advances")]
    monkeypatch.setattr(retries, "RETRIES", 1)
    instead = partial(run_trainings, trainer=fake_train)
    monkeypatch.setattr(search_trainings, "run_trainings", instead)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        with pytest.raises(SearchFailed) as failed:
            train_all(four, plan, Silent(), store)
        rows = {row.name: row.status.value for row in store.trainings()}
        assert rows == {
            "fails": "failed",
            "dies": "failed",
            "hangs": "failed",
            "advances": "completed",
        }
        done = Outcome(Status.COMPLETED, score=0.5)
        assert train_all(four[3:], plan, Silent(), store) == [done]
    first, second, third = str(failed.value).split("; ")
    assert first == "fails failed on node-7: OSError: no space"
    assert second.startswith("dies failed: its worker died 2 times: The worker died unexpectedly")
    assert third == "hangs failed: it took no step for 3 s, 2 times"


def test_a_job_whose_worker_dies_is_told_in_one_line(
    joined: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_job(SMALL, partial(int, "7")) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        run_job(SMALL, partial(int, "seven"))
    monkeypatch.setattr(retries, "RETRIES", 0)
    with pytest.raises(SearchFailed, match=r"a job's worker died 1 times: .*died unexpectedly"):
        run_job(SMALL, die)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_training_in_a_folder_waits_for_the_first(tmp_path: Path) -> None:
    second = training(tmp_path, "teacher")
    folder = Path(second.folder)
    folder.mkdir(parents=True)
    found: list[Outcome] = []
    waiting = threading.Thread(target=lambda: found.append(train(second)))
    with FileLock(folder / "training.lock"):
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
        first = Outcome(Status.COMPLETED, score=0.25)
        (folder / "student.pth").touch()
        (folder / "outcome.json").write_text(first.to_json())
    waiting.join(600)
    assert found == [first]
