"""Ray's cluster: started here or joined, and checked for what a trial needs."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..settings import Resources
from ..space import WrongUse
from .dashboard import check_dashboard, dashboard_hint, dashboard_options

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Without a limit, Ray would restart a task that runs out of memory for ever.
    "RAY_task_oom_retries": "3",
    # A search of weeks writes more than Ray's default of 512 MB a log file, six times over.
    "RAY_ROTATION_MAX_BYTES": "50000000",
    "RAY_ROTATION_BACKUP_COUNT": "1",
    # Ray's library would answer SIGTERM with pages of native trace.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}
#: A cluster's head must answer within this time.
CONNECT_SECONDS = 10
#: A node must start a worker, which looks for the work folder, within this time.
NODE_SECONDS = 120


@contextmanager
def cluster(
    resources: Resources,
    folder: Path | None = None,
    shared: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[str]:
    """Start Ray here or join a cluster; yields where its dashboard is and how to open it, or "".

    ``shared``: how many processes share a training, by the setting that says so. Raises
    :class:`WrongUse` if the cluster can't be reached, if no node has what a process asks for, if
    all have no room for the processes of a training, or if a node of a joined cluster does not see
    the work folder.
    """
    os.environ.update(_ENVIRONMENT)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if resources.address is None:
        options |= dashboard_options(resources)
        use_token()
    try:
        # Without an address, Ray would join the cluster of RAY_ADDRESS or a Ray that runs here.
        with _own_signal_handlers():
            context = ray.init(address=resources.address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WrongUse(f"can't join '{resources.address}': {error}", "resources.address") from None
    try:
        nodes = [node["Resources"] for node in alive()]
        _check_shared_trainings(resources, nodes, shared, "the cluster")
        _check_resources(resources, nodes, "the cluster's largest node")
        if resources.address is not None and folder is not None:
            check_shared(folder)
        yield dashboard_hint(context.dashboard_url or "", _other_head())
    finally:
        ray.shutdown()


def starting(resources: Resources) -> str:
    """What :func:`cluster` is about to do, which takes some seconds."""
    if resources.address is None:
        return "starting Ray …"
    return f"joining the Ray cluster at {resources.address} …"


def _other_head() -> str | None:
    """The address of the cluster's head, where that is another machine."""
    here = ray.util.get_node_ip_address()
    heads = [node for node in alive() if "node:__internal_head__" in node["Resources"]]
    found = [node["NodeManagerAddress"] for node in heads]
    return found[0] if found and found[0] != here else None


def use_token() -> None:
    """Only who has the user's token can use the Ray that starts here, and only the user reads it.

    Ray has tokens since 2.52, and makes their file readable for all. The user's own RAY_AUTH_MODE,
    RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH stay as they are.
    """
    if importlib.util.find_spec("ray._private.authentication") is None:
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    with suppress(AttributeError):
        ray._raylet.Config.initialize("")  # type: ignore[attr-defined]  # Ray read the variable when it was imported
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # Ray says what is wrong with the home folder
        file.parent.mkdir(exist_ok=True)
        try:
            opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            file.chmod(0o600)
            return
        with os.fdopen(opened, "w") as token:
            token.write(secrets.token_hex(32))


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals, which ``ray.init`` replaces.

    Ray's handler of SIGTERM raises SystemExit; the signal then goes to our handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    terminated = False
    try:
        yield
    except SystemExit:
        terminated = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def check_machine(resources: Resources, shared: Mapping[str, int] = MappingProxyType({})) -> None:
    """Raise :class:`WrongUse` if a process, or all processes of a training, ask for too much.

    So with a dashboard that can't listen where it should (:func:`check_dashboard`). ``shared``: as
    in :func:`cluster`. With ``resources.address``, raise if no cluster answers
    there; the resources of its nodes are checked when the cluster is joined. Ray starts its workers
    through a shell without quoting: with a space in Python's path, Ray would wait for them for
    ever.
    """
    if " " in sys.executable:
        raise WrongUse(
            f"{sys.executable}: Ray can't start workers by a Python whose path holds a space; "
            "install detkds in another folder"
        )
    if resources.address is not None:
        _check_reachable(resources.address)
    else:
        check_dashboard(resources)
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        _check_shared_trainings(resources, [here], shared, "this machine")
        _check_resources(resources, [here], "this machine")


def _check_reachable(address: str) -> None:
    """Raise :class:`WrongUse` if nothing answers at host:port, where Ray would try for minutes.

    ``auto`` and other kinds of address are not checked.
    """
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise WrongUse(
            f"nothing answers at {address} ({error.strerror or error}); give the head node's "
            "host:port as `ray start --head` prints it, or auto",
            "resources.address",
        ) from None


def _check_resources(resources: Resources, nodes: list[Mapping[str, float]], where: str) -> None:
    """Raise :class:`WrongUse` if no single node has what a process asks for."""
    for name, asked in (("CPU", resources.cpus), ("GPU", resources.gpus or 0.0)):
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if asked > largest:
            raise WrongUse(
                f"a process asks for {asked:g} {name}s, {where} has {largest:g}: ask for no more, "
                "or join a larger cluster by resources.address",
                f"resources.{name.lower()}s",
            )
    if not any(fits(node, {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}) for node in nodes):
        raise WrongUse(
            f"no node has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs together: lower "
            "resources.cpus",
            "resources",
        )


def _check_shared_trainings(
    resources: Resources,
    nodes: list[Mapping[str, float]],
    shared: Mapping[str, int],
    where: str,
) -> None:
    """Raise :class:`WrongUse` if the nodes together have no room for a training's processes."""
    gpus = resources.gpus
    if gpus is None:
        gpus = float(any(node.get("GPU", 0.0) >= 1 for node in nodes))
    each = {"cpu": resources.cpus, "gpu": gpus}
    places = sum(fits(node, each) for node in nodes)
    totals = [sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")]
    for setting, processes in shared.items():
        if processes > places:
            raise WrongUse(
                f"{processes} processes of {each['cpu']:g} CPU and {each['gpu']:g} GPU each share "
                f"a training, and {where}, with {totals[0]:g} CPUs and {totals[1]:g} GPUs, has "
                f"room for {places}: ask for no more, or join a larger cluster by "
                "resources.address",
                setting,
            )


def check_shared(folder: Path) -> None:
    """Raise :class:`WrongUse` naming the nodes that do not see the work folder."""
    with marker(folder) as file:
        futures = [(node["NodeManagerHostname"], _sees(node, file)) for node in alive()]
        blind = sorted({host for host, future in futures if not _answer(future)})
    if blind:
        raise WrongUse(
            f"{folder}: node(s) {', '.join(blind)} of the cluster don't see this folder: put it on "
            "a file system that all nodes share",
            "work_dir",
        )


@contextmanager
def marker(folder: Path) -> Iterator[str]:
    """A file in the work folder, for the block: who sees it sees the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-all-") as file:
        yield file.name


def _sees(node: Mapping[str, Any], file: str) -> Any:
    """The future of whether a node sees a file."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    exists = ray.remote(os.path.exists)  # type: ignore[attr-defined]
    return exists.options(num_cpus=0, scheduling_strategy=there).remote(file)


def _answer(future: Any) -> bool:
    """Whether the node sees the file; True for a node that does not answer or has left."""
    try:
        return ray.get(future, timeout=NODE_SECONDS)
    except ray.exceptions.RayError:
        return True


def per_trial(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of one trial. By default, a trial has one GPU if the cluster has GPUs."""
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    return {"cpu": resources.cpus, "gpu": gpus}


def alive() -> list[dict[str, Any]]:
    """The nodes that the cluster has now."""
    return [node for node in ray.nodes() if node["Alive"]]


def names(each: Mapping[str, float]) -> dict[str, str]:
    """The names of the nodes that have room for a worker, by their ids."""
    nodes = [node for node in alive() if fits(node["Resources"], each)]
    return {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}


def room(each: Mapping[str, float], without: Collection[str] = ()) -> int:
    """How many workers the cluster has room for now, at least one. ``without``: nodes, by ids."""
    nodes = [node for node in alive() if node["NodeID"] not in without]
    return max(1, sum(fits(node["Resources"], each) for node in nodes))


def fits(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers one node has room for. A worker's share of a GPU lies on one GPU."""
    counts = []
    if each["cpu"]:
        counts.append(int(node.get("CPU", 0.0) / each["cpu"] + 1e-6))
    if each["gpu"]:
        counts.append(int(1 / each["gpu"] + 1e-6) * int(node.get("GPU", 0.0)))
    return min(counts)
