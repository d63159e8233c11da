"""What may not run code, show in the process list, or write outside of its folder."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import tiny
from detkds.cli import console as console_module
from detkds.cli import main, tables
from detkds.cli.passwords import without_password
from detkds.db import Store
from detkds.settings import load_config
from detkds.settings.load import read_config
from detkds.space import Candidate, Distiller, WrongUse
from detkds.workers.cluster import use_token

#: mmengine's own loader of YAML runs this command.
YAML = '!!python/object/apply:os.system ["touch {canary}"]\n'


def test_a_yaml_config_is_refused_and_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    for suffix in (".yaml", ".yml"):
        file = tmp_path / f"config{suffix}"
        file.write_text("student: " + YAML.format(canary=canary))
        with pytest.raises(WrongUse, match=r"a config is a \.py or \.json file"):
            load_config(str(file))
        file.write_text("model: " + YAML.format(canary=canary))
        with pytest.raises(WrongUse, match=r"a config is a \.py or \.json file"):
            load_config("quickstart", [f"student.config={file}"]) and read_config(file)
        for above, text in (("a.py", f"_base_ = '{file}'"), ("a.json", f'{{"_base_": "{file}"}}')):
            (tmp_path / above).write_text(text)
            with pytest.raises(WrongUse, match="can't read the config: ConstructorError"):
                read_config(tmp_path / above)
    assert not canary.exists()


def test_a_config_that_raises_is_told_in_one_line(tmp_path):
    for name, text in (("a.py", "1 / 0"), ("b.json", "{"), ("c.py", "a = [")):
        (tmp_path / name).write_text(text)
        with pytest.raises(WrongUse, match=f"{name}: can't read the config: ") as told:
            load_config(str(tmp_path / name))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "..\\x", "a\x1b[2J", "a\nb", ""])
def test_names_that_lead_elsewhere_are_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["detkds", "search", "quickstart", "--name", name])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("detkds: --name: '")
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(WrongUse, match="a name is no path"):
        load_config("quickstart", [f"teachers={ {name: {'config': 'x.py'}}!r}"])


def test_names_with_markup_and_escape_sequences_are_shown_as_text(tmp_path, monkeypatch, capsys):
    out = io.StringIO()
    monkeypatch.setattr(console_module.console, "_file", out)  # ``file`` would stay as it is now
    name = "[/x] :bomb: \x1b[2J [red]"
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search(name, {}, "conditions", 0)
        candidate = Candidate(0, "global", Distiller.parse("global: mask, l1 × 2"))
        store.add_trial(search.id, candidate, 0, "conditions", 0)
        tables.trial_table(store.trial_records())
    console_module.console.print(name)
    assert "[/x] :bomb: \\x1b[2J [red]" in out.getvalue().splitlines()[-1]
    assert "\x1b" not in out.getvalue()
    file = tmp_path / "distiller.json"
    Distiller.parse("global: mask, l1 × 2", "n\x1b[8m").to_json(file)
    Distiller.from_json(file)
    text = file.read_text().replace('"provenance": null', '"provenance": {"s": "\\u001b]0;t"}')
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["detkds", "show", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "n\\x1b[8m" in said
    assert "\x1b" not in said


# The password of a database


@contextmanager
def postgresql_that_asks() -> Iterator[tuple[int, list[str], threading.Event]]:
    """A server that asks every client for its password, and the passwords that it was told.

    It hangs up when the event is set.
    """
    told: list[str] = []
    enough = threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            client.recv(4096)
            client.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")  # give it in clear
            told.append(client.recv(4096)[5:].rstrip(b"\0").decode())
            enough.wait(60)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], told, enough
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["line", "query", "environment", "pgpass", "file", "storage"])
def test_a_password_is_told_to_the_server_and_to_nobody_else(way, tmp_path):
    with postgresql_that_asks() as (port, told, enough):
        place = f"127.0.0.1:{port}/trials"
        url = f"postgresql+psycopg://me@{place}?sslmode=disable"
        environment = {**os.environ}
        if way == "line":
            url = url.replace("me@", "me:s3%40cret@")
        elif way == "query":
            url += "&password=s3%40cret"
        elif way == "environment":
            environment["PGPASSWORD"] = "s3@cret"
        elif way == "pgpass":
            file = tmp_path / "pgpass"
            file.write_text("*:*:*:me:s3@cret\n")
            file.chmod(0o600)
            environment["PGPASSFILE"] = str(file)
        elif way == "file":
            (tmp_path / "secret").write_text("s3@cret\n")
            url += f"&password_file={tmp_path / 'secret'}"
        else:
            environment["DETKDS_STORAGE"] = url.replace("me@", "me:s3%40cret@")
        options = [] if way == "storage" else ["--storage", url]
        process = subprocess.Popen(
            tiny.command("trials", *options), env=environment, stderr=subprocess.PIPE, text=True
        )
        while not told and process.poll() is None:
            time.sleep(0.02)
        line = Path(f"/proc/{process.pid}/cmdline").read_text()
        enough.set()
        said = process.communicate()[1]
    assert set(told) == {"s3@cret"}
    assert "trials" in line
    assert "s3" not in line
    assert "s3" not in said
    assert said.startswith("detkds: --storage: can't use 'postgresql+psycopg://me")
    assert said.count("\n") == 1
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("postgresql://me@host/x", None),
        ("sqlite:///a:b@c.db", None),
        ("postgresql+psycopg://me:a@b@host/x", "postgresql+psycopg://me@host/x"),
        ("postgresql://host/x?user=me&password=p&sslmode=disable", "postgresql://host/x?user=me&sslmode=disable"),
        ("--storage=postgresql://host/x?password=p", "--storage=postgresql://host/x"),
    ],
)  # fmt: skip
def test_a_url_without_its_password(argument, shown):
    assert without_password(argument)[0] == (shown or argument)
    assert (without_password(argument)[1] is None) == (shown is None)


# Ray's token


def test_the_file_of_rays_token_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)
    file = tmp_path / ".ray" / "auth_token"
    use_token()
    assert os.environ.pop("RAY_AUTH_MODE") == "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text()
    assert len(token) == 64
    file.chmod(0o644)  # as Ray itself makes it
    use_token()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == token
    os.environ["RAY_AUTH_MODE"] = "disabled"
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled", "the user's own"


RAY = """
import os, subprocess, sys
import ray
from detkds.settings import Resources
from detkds.workers.cluster import cluster
JOIN = '''
import ray, sys
from detkds.workers.dashboard import dashboard_hint
joined = ray.init(address=sys.argv[1], log_to_driver=False)
print(dashboard_hint(joined.dashboard_url, None))
'''
with cluster(Resources(gpus=0, dashboard_host="127.0.0.1", dashboard_port={port})) as dashboard:
    print(dashboard)
    address = ray.get_runtime_context().gcs_address
    for token in (None, "0" * 64):
        stranger = dict(os.environ, **({{"RAY_AUTH_TOKEN": token}} if token else {{}}))
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address], env=stranger, capture_output=True, text=True
        )
        print(done.stdout.strip() or "not in", flush=True)
    sys.stdin.read()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def status(url: str, token: str | None) -> int:
    """What the dashboard answers to who has a token, or none."""
    request = Request(f"{url}/api/cluster_status")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        return build_opener(ProxyHandler({})).open(request, timeout=60).status
    except HTTPError as error:
        return error.code


@pytest.mark.slow
def test_only_who_has_the_token_uses_the_ray_that_a_search_starts(tmp_path):
    """What is printed of the dashboard can be typed as it is; who joins has the same line."""
    port = free_port()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", RAY.format(port=port)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        started, joined, stranger = (process.stdout.readline().strip() for _ in range(3))
        url, _, hint = started.partition(" (it asks for a token: ")
        assert url == f"http://127.0.0.1:{port}"
        assert joined == started
        assert stranger == "not in"
        shell = ["sh", "-c", hint.removesuffix(")")]
        token = subprocess.check_output(shell, env={"HOME": str(tmp_path)}, text=True).strip()
        assert status(url, token) == 200
        assert status(url, None) == 401
        assert status(url, "0" * 64) == 403
        process.stdin.close()
    assert process.returncode == 0
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
