"""Ray's dashboard: where it listens, and what to type to open it. No Ray, no torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from ..settings import Resources
from ..space import WrongUse

#: A dashboard must answer within this time.
_ANSWER_SECONDS = 3
#: What says which token Ray uses, besides RAY_AUTH_TOKEN, which holds the token itself.
_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


def dashboard_options(resources: Resources) -> dict[str, Any]:
    """The options of ``ray.init`` for the dashboard of a Ray that starts here."""
    given = {
        "include_dashboard": resources.dashboard,
        "dashboard_host": resources.dashboard_host,
        "dashboard_port": resources.dashboard_port,
    }
    return {name: value for name, value in given.items() if value is not None}


def check_dashboard(resources: Resources) -> None:
    """Raise :class:`WrongUse` if the dashboard can't listen where it should, or lets anybody in.

    Who can use the dashboard can run programs here.
    """
    host, port = resources.dashboard_host, resources.dashboard_port
    if host is not None:
        _check_listens(host, 0, "dashboard_host", "give an address of this machine, or 0.0.0.0")
        mode = os.environ.get("RAY_AUTH_MODE", "token")
        if not _is_own(host) and mode.lower() != "token":
            raise WrongUse(
                f"{host} is open to other machines, and RAY_AUTH_MODE={mode} lets each of them run "
                "programs here: unset RAY_AUTH_MODE, or leave the host out",
                "resources.dashboard_host",
            )
    if port is not None:
        advice = "give a port that is free, or leave it out"
        _check_listens(host or "127.0.0.1", port, "dashboard_port", advice)


def _check_listens(host: str, port: int, name: str, advice: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        place = f"{host}:{port}" if port else host
        why = error.strerror or f"{error}"
        raise WrongUse(
            f"nothing can listen at {place} ({why.partition(' (while')[0]}): {advice}",
            f"resources.{name}",
        ) from None


def _is_own(host: str) -> bool:
    """Whether only this machine reaches what listens at an address or a name of it."""
    return ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_loopback


def dashboard_hint(address: str, head: str | None) -> str:
    """What to type to open the dashboard at host:port; "" for no address.

    ``head``: the address of the machine that the dashboard runs on, where that is not this one.
    """
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    url = f"http://{address}"
    mode = _mode(url)
    if mode is None and head is not None and _is_own(host):
        url = f"{url} on {head}; from here, by way of: ssh -N -L {port}:{address} {head}"
        mode = os.environ.get("RAY_AUTH_MODE")
    return f"{url} (it asks for a token: {token_command()})" if mode == "token" else url


def _mode(url: str) -> str | None:
    """How a dashboard knows its users, ``token`` or ``disabled``; None if it does not answer."""
    opener = build_opener(ProxyHandler({}))  # no proxy leads to this machine
    try:
        with opener.open(f"{url}/api/authentication_mode", timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)["authentication_mode"]
    except (OSError, ValueError, KeyError):  # Ray before 2.52 has no tokens
        return None


def token_command() -> str:
    """What prints the token of this process, in the user's shell."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return "echo $RAY_AUTH_TOKEN"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"cat {shlex.quote(file)}" if file else "cat ~/.ray/auth_token"


def ray_command() -> str:
    """``ray`` as the user's shell finds it, with the variables by which it has the token."""
    own, found = Path(sys.executable).with_name("ray"), shutil.which("ray")
    known = not own.is_file() or (found is not None and Path(found).samefile(own))
    variables = _TOKEN_VARIABLES if os.environ.get("RAY_AUTH_MODE") == "token" else ()
    given = [f"{name}={shlex.quote(os.environ[name])}" for name in variables if name in os.environ]
    return " ".join([*given, "ray" if known else shlex.quote(str(own))])
