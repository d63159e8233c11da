"""``detkds search … --submit``: the same command as a job on a Ray cluster, and its output here."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Sequence
from typing import Any

import typer

from ..space import SearchFailed, WrongUse
from ..space.errors import hide_password
from ..workers.dashboard import ray_command
from .interrupts import interrupts
from .passwords import without_password

#: The statuses of a job that has not ended.
_UNFINISHED = ("PENDING", "RUNNING")
#: A head must take jobs within this time.
_READY_SECONDS = 60


def submit(address: str, name: str, arguments: Sequence[str], storage: str | None) -> int:
    """Run ``detkds search`` with these arguments as a job, and return its exit code.

    The job runs in the folder that this command runs in, which the head has to see. Ctrl-C leaves
    the job running. Raises :class:`WrongUse` if no Ray head answers at ``address``, and for a
    password that would travel with the job: Ray shows a job's command line and environment to
    everybody on the cluster.
    """
    command = job_command(arguments, storage)
    client = _client(address)
    job = _submitted(client, address, name, command)
    follow = f"{ray_command()} job logs --follow {job} --address {address}"
    stop = f"{ray_command()} job stop {job} --address {address}"
    typer.echo(f"submitted as {job}")
    # After Ctrl-C, it lists what was still open.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_print_output(client, job))
        return _ended(client, job)
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupts.told = True
        typer.echo(f"{job} goes on; follow it with: {follow}; stop it with: {stop}", err=True)
        return interrupts.exit_code
    except (ConnectionError, OSError, RuntimeError) as error:
        raise SearchFailed(
            f"{address} answers no more ({_line(error)}); the job may go on: {follow}"
        ) from None


def job_command(arguments: Sequence[str], storage: str | None) -> list[str]:
    """The job's command: the arguments without ``--submit``, with the storage of the environment.

    Raises :class:`WrongUse` for a password.
    """
    own: list[str] = []
    skipped = False
    for argument in arguments:
        if skipped or argument.partition("=")[0] == "--submit":
            skipped = argument == "--submit" and not skipped
            continue
        own.append(argument)
    known = storage or ""
    if without_password(known)[1] or ("postgres" in known and "PGPASSWORD" in os.environ):
        raise WrongUse(
            f"{hide_password(known)}: the password would travel with the job; put it into a file "
            "that the head sees and add ?password_file=FILE, or let the head have it, in "
            "~/.pgpass, and unset PGPASSWORD",
            "storage",
        )
    if storage and not any(one.partition("=")[0] == "--storage" for one in own):
        own += ["--storage", storage]
    return ["detkds", *own]


def _client(address: str) -> Any:
    """Ray's client of jobs. Raises :class:`WrongUse` if no head answers."""
    advice = "give the address of its dashboard, as http://head:8265"
    if not address.startswith(("http://", "https://")):
        raise WrongUse(f"{address}: it is no address of a Ray head; {advice}", "submit")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # Ray raises what its HTTP library meets
        raise WrongUse(
            f"no Ray head answers at {address}: {_line(error)}; {advice}", "submit"
        ) from None


def _submitted(client: Any, address: str, name: str, command: Sequence[str]) -> str:
    """The id of the new job. A head that has just started takes jobs a moment later."""
    job = f"detkds-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    line = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}"
    last = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=line, submission_id=job, metadata={"detkds_search": name}
            )
        except (RuntimeError, OSError) as error:
            if "try again later" not in str(error) or time.monotonic() > last:
                raise SearchFailed(f"{address} takes no job: {_line(error)}") from None
        time.sleep(1)


async def _print_output(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        typer.echo(text, nl=False)


def _ended(client: Any, job: str) -> int:
    """The exit code of a job whose output has ended; its status may come a moment later."""
    for _ in range(50):
        info = client.get_job_info(job)
        if info.status not in _UNFINISHED:
            break
        time.sleep(0.2)
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None:
        raise SearchFailed(f"{job} {str(info.status.value).lower()}: {info.message}")
    return int(info.driver_exit_code) % 256 or 1


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
