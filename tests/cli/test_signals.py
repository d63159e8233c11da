"""Signals that schedulers and closed terminals send; test_search_command has those to searches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny
from detkds.db import Store
from detkds.space import Status

pytestmark = pytest.mark.slow


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as SLURM and a terminal do.

    It hears SIGHUP, though the tests may have been started by ``nohup``.
    """
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )


def store_of(folder: Path) -> Store:
    return Store(f"sqlite:///{folder / 'detkds.db'}", create=False)


def training(folder: Path) -> bool:
    """Whether a full training is under way, and says how far it is."""
    return any(folder.glob("trained/*/progress.json"))


def stopped(
    process: subprocess.Popen[str], reached: Callable[[], object], number: int
) -> list[str]:
    """Send the signal when the training is reached; returns what the command printed."""
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    return printed.splitlines()


def test_a_training_says_how_to_go_on(tmp_path):
    options = "--cfg-options", *tiny.OPTIONS, "final.epochs=90", "final.compare=['none']"
    command = tiny.command(
        "train", "quickstart", "--distiller", "none", "--work-dir", tmp_path, *options
    )
    process = start(command)
    printed = stopped(process, partial(training, tmp_path), signal.SIGTERM)
    assert process.returncode == 143, printed
    assert printed[0] == "starting Ray …"
    said = [line for line in printed[1:] if not line.startswith("training: ")]
    assert len(said) == 1, printed
    assert said[0].startswith("interrupted; go on with: detkds train quickstart --distiller none")
    with store_of(tmp_path) as store:
        assert [row.status for row in store.trainings()] == [Status.RUNNING]


def test_a_signal_that_is_ignored_stays_ignored_and_the_last_word_is_in_time(tmp_path):
    """``nohup`` ignores SIGHUP. And a process that hangs ends all the same."""
    script = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from detkds.cli import interrupts
interrupts.LAST_SECONDS = 1.0
with interrupts.ended_by_signals("detkds search a"):
    signal.raise_signal(signal.SIGHUP)
    while True:
        try:
            print("here", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as a library's callback
"""
    process = start([sys.executable, "-c", script])
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "here\ninterrupted; go on with: detkds search a\n"
    assert process.returncode == 143
