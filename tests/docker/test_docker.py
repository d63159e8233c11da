"""The files of docker/: what can be checked without Docker, Kubernetes or SLURM.

Commands are parsed by the command line that would run them, and the shell scripts run with the
schedulers' commands replaced by some that write down how they were called.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer
import yaml
from detkds.cli.main import _spread_options, app
from detkds.workers.metrics import SearchMetrics
from ray.scripts.scripts import cli as ray_cli
from ray.util.metrics import Metric

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
CLUSTER = yaml.safe_load((DOCKER / "ray-cluster.yaml").read_text())
CLAIM, JOB = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())


def filled(text: str) -> str:
    """A text of a compose file with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def check_command(line: list[str]) -> None:
    """Raise a usage error if `ray` or `detkds` has no such command or options."""
    name, *arguments = line
    if name == "detkds-search":
        return check_command(searched(*arguments)[-1])
    group: Any = {"ray": ray_cli, "detkds": typer.main.get_command(app)}[name]
    if name == "detkds":
        arguments = _spread_options(arguments)
    with group.context_class(group, info_name=name) as context:
        _, command, rest = group.resolve_command(context, arguments)
        command.make_context(command.name, list(rest), parent=context)


def searched(*arguments: str, known: bool = False) -> list[list[str]]:
    """What search.sh runs. ``known``: whether the store knows the search."""
    return scripted("search.sh", *arguments, RAY_HEAD="head:6379", KNOWN=str(int(known)))


def scripted(script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """What a script runs, with every command of ``STAND_INS`` written down."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/activate").touch()
        (folder / "docker").symlink_to(DOCKER)
        for stand_in, body in STAND_INS.items():
            file = folder / stand_in
            file.write_text(f"#!{sys.executable}\n{WRITES}{body}")
            file.chmod(0o755)
        environment = {"HOME": name, "LOG": f"{name}/log", **environment}
        environment["PATH"] = f"{name}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", DOCKER / script, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == int(environment.get("EXPECTED", 0)), done.stderr
        return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


WRITES = """
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
"""
STAND_INS = {
    "ray": "",
    "detkds": """
if sys.argv[1] == "trials" and not int(os.environ["KNOWN"]):
    sys.exit(2)
if sys.argv[1] == "search":
    sys.exit(int(os.environ.get("CODE", 0)))
""",
    "scontrol": """
if sys.argv[1] == "show":
    print("node-1\\nnode-2\\nnode-3")
""",
    "srun": """
line = [one for one in sys.argv[1:] if not one.startswith(("--nodes=", "--ntasks=", "--nodelist="))]
os.execvp(line[0], line)
""",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node-[1-3]",
    "SLURM_CPUS_PER_TASK": "16",
    "SLURM_GPUS_ON_NODE": "4",
}


def test_search_sh_starts_a_search_or_goes_on_with_it() -> None:
    options = ["--cfg-options", "search.trials=9"]
    for known in (False, True):
        asked, run = searched("mine", "quickstart", *options, known=known)
        assert asked[:3] == ["detkds", "trials", "mine"]
        assert ("--resume" in run) == known
        check_command(asked)
        check_command(run)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (143, True)])
def test_slurm_starts_every_node_and_queues_a_preempted_job_again(
    code: int, requeued: bool
) -> None:
    lines = scripted(
        "slurm.sh", "mine", "quickstart", **SLURM, KNOWN="0", CODE=str(code), EXPECTED=str(code)
    )
    for line in lines:
        if line[0] in ("ray", "detkds"):
            check_command(line)
    starts = [line for line in lines if line[:2] == ["ray", "start"]]
    assert sum("--head" in line for line in starts) == 1
    assert sum("--address=node-1:20007" in line for line in starts) == 2
    assert any("resources.address=node-1:20007" in line for line in lines)
    assert (["scontrol", "requeue", "7"] in lines) == requeued


def compose_commands() -> Iterator[Any]:
    for name, service in SERVICES.items():
        if "command" in service:
            yield pytest.param([filled(part) for part in service["command"]], id=name)


def cluster_commands() -> Iterator[Any]:
    lines = [*CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]]
    yield from (pytest.param(shlex.split(line), id=line[:24]) for line in lines)
    yield pytest.param(shlex.split(JOB["spec"]["entrypoint"]), id="kuberay")
    dockerfile = (DOCKER / "Dockerfile").read_text()
    yield pytest.param(json.loads(re.findall(r"^CMD (.*)", dockerfile, re.M)[0]), id="image")
    check = re.findall(r"^    CMD (.*)", dockerfile, re.M)[0]
    yield pytest.param(shlex.split(check.replace("${RAY_HEAD:-", "").replace("}", "")), id="health")


@pytest.mark.parametrize("line", [*compose_commands(), *cluster_commands()])
def test_every_command_is_one_that_ray_or_detkds_has(line: list[str]) -> None:
    if line == ["detkds", "--help"]:
        return
    check_command(line)


def test_a_wrong_option_would_be_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        check_command(["ray", "start", "--no-such-option"])
    with pytest.raises(Exception, match="No such command"):
        check_command(["detkds", "serach"])


def test_rays_own_schema_takes_the_cluster() -> None:
    schema = Path(ray.__file__).parent / "autoscaler/ray-schema.json"
    jsonschema.validate(CLUSTER, json.loads(schema.read_text()))


def test_every_kubernetes_container_has_the_image_and_the_secrets() -> None:
    assert CLAIM["kind"] == "PersistentVolumeClaim"
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    cluster = JOB["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [JOB["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert {"RAY_HEAD", "RAY_AUTH_MODE", "DETKDS_STORAGE"} <= {
                variable["name"] for variable in container["env"]
            }
    for group in groups:
        flags = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        check_command(["ray", "start", *flags])


def test_compose_shows_the_dashboard_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_holds_together() -> None:
    """Names that services refer to exist, and every service that runs for long is checked."""
    for name, service in SERVICES.items():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for volume in service.get("volumes", []):
            source = filled(volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or source.startswith("."), volume
            if source.startswith("./") and not volume.startswith("$"):
                assert (DOCKER / source).exists(), volume
        assert "healthcheck" in service or service.get("build"), name
    cuda = yaml.safe_load((DOCKER / "cuda.yaml").read_text())
    assert set(cuda["services"]) <= set(SERVICES)


def test_no_file_holds_a_secret() -> None:
    """Passwords and tokens are files that git ignores."""
    for file in DOCKER.rglob("*.*"):
        if file.is_file() and file.parent.name != "secrets":
            text = file.read_text()
            assert not re.search(r"://\w+:[^@/\s]+@", text), file
            assert not re.search(r"(?i)(password|token)\s*[:=]\s*[\"']?\w{6,}", text), file


def test_the_image_is_pinned_and_not_root() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    stages = text.split("\nFROM ")[1:]
    assert [stage.splitlines()[0].rpartition(" AS ")[2] for stage in stages] == [
        "base",
        "cuda",
        "cpu",
    ]
    for stage in stages[1:]:
        assert re.search(r"^USER detkds$", stage, re.M)
    assert all("-c constraints.txt" in line for line in re.findall(r"^RUN pip .*", text, re.M))
    for source in re.findall(r"^COPY (?:--\S+ )*(\S+) ", text, re.M):
        assert (DOCKER.parent / source).exists()


def test_grafana_has_a_dashboard_of_every_metric_of_a_search() -> None:
    """Every provider's folder is there or Ray's, and queries name metrics and tags that exist."""
    mounts = dict(
        volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"] if volume[0] == "."
    )
    provided = {mounted: DOCKER / folder for folder, mounted in mounts.items()}
    for file in (DOCKER / "grafana/provisioning/dashboards").iterdir():
        for provider in yaml.safe_load(file.read_text())["providers"]:
            path = provider["options"]["path"]
            assert path.startswith("/ray/") or provided[path].is_dir(), file
    known = {
        metric.info["name"]: {*metric.info["tag_keys"], "le"}
        for metric in vars(SearchMetrics("cells")).values()
        if isinstance(metric, Metric)
    }
    dashboard = json.loads((DOCKER / "grafana/dashboards/detkds.json").read_text())
    drawn = set()
    for target in (target for panel in dashboard["panels"] for target in panel["targets"]):
        used = re.findall(r"ray_(detkds_\w+)\{([^}]*)\}", target["expr"])
        assert used, target["expr"]
        for name, labels in used:
            name = re.sub("_(bucket|sum|count)$", "", name)
            asked = (
                re.findall(r"(\w+)=~", labels) + re.findall(r"by \((.*?)\)", target["expr"])[0:1]
            )
            tags = {tag for text in asked for tag in text.split(", ")}
            assert tags <= known[name], target["expr"]
            drawn.add(name)
    assert drawn == set(known)
    places = {tuple(panel["gridPos"][axis] for axis in "xy") for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])
