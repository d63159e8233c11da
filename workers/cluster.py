"""Ray's cluster: started here or joined, and checked for what a trial needs of it."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..settings import Resources
from ..space import WrongUse

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray would start a task that runs out of memory again without end.
    "RAY_task_oom_retries": "3",
}
#: How long a cluster's head may take to answer.
CONNECT_SECONDS = 10
#: How long a node may take to start a worker that looks for the work folder.
LOOK_SECONDS = 120


@contextmanager
def cluster(resources: Resources, folder: Path | None = None) -> Iterator[str]:
    """Ray started here or joined; yields the dashboard's address ("" without one).

    Raises :class:`WrongUse` when the cluster can't be reached, when none of its nodes has what a
    trial asks for, or when one of them does not see the work folder.
    """
    os.environ.update(_ENVIRONMENT)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if resources.address is None:
        options["include_dashboard"] = resources.dashboard
    try:
        # Without an address Ray would join whatever RAY_ADDRESS or a Ray started before names.
        context = ray.init(address=resources.address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WrongUse(f"resources.address: can't join '{resources.address}': {error}") from None
    try:
        _check(resources, [node["Resources"] for node in alive()], "the cluster's largest node")
        if resources.address is not None and folder is not None:
            check_shared(folder)
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def check_machine(resources: Resources) -> None:
    """Raise :class:`WrongUse` if a trial asks for more than this machine has.

    A cluster to be joined by ``address`` is asked when it is joined. Ray starts its actors through
    a shell without quoting: under a path with a space it would wait for them for ever.
    """
    if " " in sys.executable:
        raise WrongUse(
            f"{sys.executable}: Ray can't start workers by a Python whose path holds a space; "
            "install detkds in another folder"
        )
    if resources.address is not None:
        _check_reachable(resources.address)
    else:
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        _check(resources, [here], "this machine")


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes. ``auto`` and addresses of other kinds are left to it."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise WrongUse(
            f"resources.address: nothing answers at {address} ({error.strerror or error}); give "
            "the head node's host:port as `ray start --head` prints it, or auto"
        ) from None


def _check(resources: Resources, nodes: list[Mapping[str, float]], where: str) -> None:
    """A trial runs on one node: what the cluster has in all is not what a trial can have."""
    for name, asked in (("CPU", resources.cpus), ("GPU", resources.gpus or 0.0)):
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if asked > most:
            raise WrongUse(
                f"resources.{name.lower()}s: a trial asks for {asked:g} {name}s, {where} has "
                f"{most:g}: ask for no more, or join a larger cluster by resources.address"
            )
    if not any(fits(node, {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}) for node in nodes):
        raise WrongUse(
            f"resources: no node has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs together: "
            "lower resources.cpus"
        )


def check_shared(folder: Path) -> None:
    """Raise :class:`WrongUse` naming the nodes that do not see the work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-all-") as marker:
        looks = [(node["NodeManagerHostname"], _look(marker.name, node)) for node in alive()]
        blind = sorted({host for host, seen in looks if not _answer(seen)})
    if blind:
        raise WrongUse(
            f"--work-dir {folder}: node(s) {', '.join(blind)} of the cluster don't see it: put it "
            "on a file system that all nodes share"
        )


def _look(file: str, node: Mapping[str, Any]) -> Any:
    """Whether a node sees a file: the future of it."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    exists = ray.remote(os.path.exists)  # type: ignore[attr-defined]
    return exists.options(num_cpus=0, scheduling_strategy=there).remote(file)


def _answer(seen: Any) -> bool:
    """What a node says; one that says nothing, or has gone meanwhile, is not called blind."""
    try:
        return ray.get(seen, timeout=LOOK_SECONDS)
    except ray.exceptions.RayError:
        return True


def per_trial(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of one trial; a GPU is used without being asked for where there is one."""
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    return {"cpu": resources.cpus, "gpu": gpus}


def alive() -> list[dict[str, Any]]:
    """The nodes that the cluster has now."""
    return [node for node in ray.nodes() if node["Alive"]]


def room(each: Mapping[str, float]) -> int:
    """How many workers the cluster has room for now, at least one."""
    return max(1, sum(fits(node["Resources"], each) for node in alive()))


def fits(there: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers one node has room for; a worker's share is of one GPU, not of several."""
    counts = []
    if each["cpu"]:
        counts.append(int(there.get("CPU", 0.0) / each["cpu"] + 1e-6))
    if each["gpu"]:
        counts.append(int(1 / each["gpu"] + 1e-6) * int(there.get("GPU", 0.0)))
    return min(counts)
