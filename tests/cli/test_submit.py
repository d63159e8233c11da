"""``detkds search --submit``: a real Ray head runs the search; what is none is told in a line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from detkds.cli.submitting import _ended, _print_output, job_command
from detkds.space import WrongUse
from ray.cluster_utils import Cluster

Run = Callable[..., tuple[int, str]]


class Page(BaseHTTPRequestHandler):
    """A web server that is no Ray head."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b"<html>no such page</html>")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_what_is_no_ray_head_is_told_in_one_line(command: Run, page: str) -> None:
    for address in (page, "http://127.0.0.1:9", "head:6379"):
        code, said = command("search", "quickstart", "--submit", address)
        assert code == 2
        assert said.startswith("detkds: --submit: ")
        assert address in said
        assert said.count("\n") == 1, said


def test_the_job_is_the_same_command_without_submit_and_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    arguments = ["search", "c.py", "--submit", "http://head:8265", "--resume"]
    assert job_command(arguments, None) == ["detkds", "search", "c.py", "--resume"]
    assert job_command(["search", "--submit=http://head:8265", "c.py"], None)[1:] == [
        "search",
        "c.py",
    ]
    own = "postgresql+psycopg://me@db/trials?password_file=/run/secrets/db"
    assert job_command(["search", "c.py"], own)[-2:] == ["--storage", own]
    with pytest.raises(WrongUse, match=r"me:\*\*\*@db.*password would travel"):
        job_command(["search", "c.py"], "postgresql+psycopg://me:s3cret@db/trials")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    with pytest.raises(WrongUse, match="password would travel"):
        job_command(["search", "c.py"], "postgresql+psycopg://me@db/trials")
    assert job_command(["search", "c.py"], "sqlite:///trials.db")[-1] == "sqlite:///trials.db"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The dashboard of a cluster on which `detkds` is in the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": True,
                "dashboard_port": 0,
                "dashboard_agent_listen_port": free_port(),
            },
        )
        yield f"http://{cluster.head_node.webui_url}"
        cluster.shutdown()


CONFIG = """
_base_ = [{base!r}]
resources = dict(cpus=4096)
if "RAY_JOB_CONFIG_JSON_ENV_VAR" in __import__("os").environ:
    print("the job reads its config", flush=True)
    while not __import__("os").path.exists("go"):
        __import__("time").sleep(0.1)
"""


@pytest.mark.slow
def test_a_job_goes_on_after_ctrl_c_and_its_output_and_exit_code_come_back(
    head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job waits in its config, so that there is time for Ctrl-C; then it fails."""
    from ray.job_submission import JobSubmissionClient

    base = Path(sys.modules["detkds"].__path__[0]) / "configs/search/quickstart.py"
    (tmp_path / "waits.py").write_text(CONFIG.format(base=str(base)))
    process = subprocess.Popen(
        [Path(sys.executable).parent / "detkds", "search", "waits.py", "--submit", head],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests in the background of a shell ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(1)]
    while process.poll() is None and "the job reads its config" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    job = lines[0].removeprefix("submitted as ").strip()
    assert job.startswith("detkds-waits-"), "".join(lines)
    assert rest == (
        f"{job} goes on; follow it with: ray job logs --follow {job} --address {head}; "
        f"stop it with: ray job stop {job} --address {head}\n"
    )
    assert process.returncode == 130
    client = JobSubmissionClient(head)
    info = client.get_job_info(job)
    assert info.status == "RUNNING"
    assert info.metadata == {"detkds_search": "waits"}
    (tmp_path / "go").touch()
    asyncio.run(_print_output(client, job))
    assert (
        "a process asks for 4096 CPUs, the cluster's largest node has 1" in capsys.readouterr().out
    )
    assert _ended(client, job) == 2
