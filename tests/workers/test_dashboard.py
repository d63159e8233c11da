"""What is told of Ray's dashboard, and where it may listen. No Ray is started here."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detkds.settings import Resources, load_config
from detkds.space import WrongUse
from detkds.workers.cluster import check_machine
from detkds.workers.dashboard import dashboard_hint, dashboard_options, ray_command, token_command

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
