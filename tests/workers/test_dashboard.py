"""What is told of Ray's dashboard, where it may listen, and what a running one shows."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import simulated_search
from conftest import importable_by_workers
from detkds.db import Store
from detkds.search.controller import Controller
from detkds.search.run import measure, show
from detkds.search.session import Session
from detkds.settings import Resources, load_config
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from detkds.workers.cluster import alive, check_machine, cluster
from detkds.workers.dashboard import dashboard_hint, dashboard_options, ray_command, token_command
from detkds.workers.metrics import reason_kind, search_metrics
from detkds.workers.naming import LONGEST, trial_name
from detkds.workers.ray_engine import run_actors

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which something listens."""
    with socket.create_server((HERE, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_told_before_ray_starts(taken: int) -> None:
    with pytest.raises(WrongUse) as told:
        check_machine(Resources(dashboard_port=taken))
    assert str(told.value) == (
        f"resources.dashboard_port: nothing can listen at {HERE}:{taken} (Address already in use): "
        "give a port that is free, or leave it out"
    )


def test_an_address_of_another_machine_is_told_before_ray_starts() -> None:
    with pytest.raises(WrongUse, match=r"^resources.dashboard_host: nothing can listen at 203\.0"):
        check_machine(Resources(dashboard_host="203.0.113.77"))  # of documentation alone, RFC 5737


def test_without_a_token_no_other_machine_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    check_machine(Resources(dashboard_host="0.0.0.0"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_machine(Resources(dashboard_host=HERE))
    with pytest.raises(WrongUse, match=r"RAY_AUTH_MODE=disabled lets each of them run programs"):
        check_machine(Resources(dashboard_host="0.0.0.0"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["address=auto", "dashboard_port=8265"], "dashboard_port: the cluster of resources.addr"),
        (["address=auto", "dashboard_host=0.0.0.0"], "dashboard_host: the cluster of resources.a"),
        (["dashboard=False", "dashboard_port=8265"], "dashboard_port: resources.dashboard=False "),
        (["dashboard_port=65536"], "dashboard_port: Input should be less than or equal to 65535"),
    ],
)
def test_what_would_have_no_effect_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(WrongUse, match=re.escape(f"resources.{said}")):
        load_config("quickstart", [f"resources.{option}" for option in options])


def test_ray_is_given_what_the_config_says() -> None:
    assert dashboard_options(Resources()) == {"include_dashboard": True}
    assert dashboard_options(Resources(dashboard_host=HERE, dashboard_port=8300)) == {
        "include_dashboard": True,
        "dashboard_host": HERE,
        "dashboard_port": 8300,
    }


def test_a_dashboard_that_only_the_head_reaches_has_a_way_to_it(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = f"{HERE}:{taken + 1}"
    assert dashboard_hint("", head="10.0.0.3") == ""
    assert dashboard_hint(free, head=None) == f"http://{free}"
    way = f"http://{free} on 10.0.0.3; from here, by way of: ssh -N -L {taken + 1}:{free} 10.0.0.3"
    assert dashboard_hint(free, head="10.0.0.3") == way
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    asks = " (it asks for a token: cat ~/.ray/auth_token)"
    assert dashboard_hint(free, head="10.0.0.3") == way + asks


def test_the_token_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/ray token")
    assert token_command() == "cat '/run/secrets/ray token'"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert token_command() == "echo $RAY_AUTH_TOKEN"


def test_ray_has_its_whole_path_where_the_shell_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(sys.executable).with_name("ray")
    monkeypatch.setenv("PATH", str(own.parent))
    assert ray_command() == "ray"
    monkeypatch.setenv("PATH", os.defpath)
    assert ray_command() == str(own)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token file")
    assert ray_command() == f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='token file' {own}"


def test_a_trials_name_says_which_distiller_it_has_and_is_no_longer_than_a_table() -> None:
    def named(text: str, stage: str = "logits", name: str | None = None) -> str:
        return trial_name("cells", Candidate(7, stage, Distiller.parse(text, name)))

    two = "global: identity, l1 × 5\nlogits: norm_n, pearson × 0.5"
    assert named("logits: softmax_c, pearson × 5") == "cells/7 logits softmax_c pearson"
    assert named(two, "all") == "cells/7 global identity l1 + logits norm_n pearson"
    assert named(two, "weights") == "cells/7 weights global 5, logits 0.5"
    assert named(two, "start", "pkd") == "cells/7 pkd"
    assert trial_name("cells", Candidate(0, "start", Distiller(()))) == "cells/0 student alone"
    assert len(trial_name("c" * 200, Candidate(0, "start", Distiller(())))) == LONGEST


class Unseen:
    def search(self, session: Session, planned: int) -> None:
        """The test looks at the dashboard."""


def until(found: Callable[[], Any]) -> Any:
    """What is found as soon as there is something: Ray's agents collect every ten seconds."""
    deadline = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return value


@pytest.mark.slow
def test_the_running_dashboard_has_trials_by_name_with_their_logs_and_numbers(
    tmp_path: Path,
) -> None:
    """A simulated search on real workers, and what its Ray answers to one who has the token."""
    opener = build_opener(ProxyHandler({}))

    def evaluator(context: None, candidate: Candidate) -> Outcome:
        print("a line of this trial")
        return replace(simulated_search.score(candidate), seconds=20.0)

    def get(url: str) -> str:
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        asked = Request(url, headers={"Authorization": f"Bearer {token}"})
        with opener.open(asked, timeout=30) as answer:
            return answer.read().decode()

    def state(kind: str) -> list[dict[str, Any]]:
        return json.loads(get(f"{url}/api/v0/{kind}?detail=1&limit=1000"))["data"]["result"][
            "result"
        ]

    with (
        importable_by_workers(),
        Store(f"sqlite:///{tmp_path}/detkds.db") as store,
        cluster(Resources(cpus=1)) as hint,
        search_metrics("cells") as metrics,
    ):
        url = hint.split()[0]
        row = store.create_search("cells", {}, "conditions", 0)
        controller = Controller(simulated_search.SPACE, simulated_search.SETTINGS, seed=0)
        session = Session(controller, store, row.id, "conditions", 0)
        show(session, Unseen(), metrics)  # type: ignore[arg-type]
        run_actors(session, {"cpu": 1, "gpu": 0}, 1, type(None), evaluator, name="cells")
        measure(metrics, session)
        trials = store.trials(row.id)
        worked = [trial for trial in trials if trial.reused_from is None]
        names = {trial_name("cells", trial.candidate) for trial in worked}
        assert len(names) > simulated_search.SETTINGS.weights
        until(lambda: names <= {task["name"] for task in state("tasks")})

        def lines_of_workers() -> list[str]:
            """The lines of all workers' logs; none where Ray's agent, which reads them, is away."""
            logs = []
            for one in state("actors"):
                with suppress(HTTPError):
                    logs.append(get(f"{url}/api/v0/logs/file?actor_id={one['actor_id']}&lines=-1"))
            return "\n".join(logs).splitlines()

        end = time.monotonic() + 30
        while not (lines := lines_of_workers()) and time.monotonic() < end:
            time.sleep(1)
        if not lines:
            pytest.skip(
                "another Ray on this machine has the port of Ray's agent: no log, no metric"
            )
        for trial in worked:
            name = trial_name("cells", trial.candidate)
            at = lines.index(name)
            assert lines[at + 1] == "a line of this trial"
            assert lines[at + 2].startswith(f"{name}: {trial.status.value}")

        node = alive()[0]
        exported = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

        def value(metric: str, **tags: str) -> float | None:
            wanted = [f'{name}="{text}"' for name, text in {"search": "cells", **tags}.items()]
            for line in get(exported).splitlines():
                if line.startswith(f"ray_{metric}{{") and all(tag in line for tag in wanted):
                    return float(line.rpartition(" ")[2])
            return None

        best = store.best(row.id)
        assert best is not None
        until(lambda: value("detkds_best_ap") == pytest.approx(best.score))
        for (stage, status), count in Counter((t.stage, t.status) for t in trials).items():
            assert value("detkds_trials", stage=stage, status=status.value) == count
        rejected = sum(trial.status is Status.REJECTED for trial in trials)
        assert value("detkds_rejections", reason=reason_kind("loss is NaN")) == rejected > 0
        scored = [trial for trial in trials if trial.stage == "global" and trial.seconds]
        reused = [trial for trial in scored if trial.reused_from is not None]
        ranked = [trial for trial in scored if trial.outcome and trial.outcome.ranked]
        assert value("detkds_trial_seconds_count", stage="global") == len(ranked) - len(reused)
        assert value("detkds_trial_seconds_sum", stage="global") == 20 * len(ranked)
