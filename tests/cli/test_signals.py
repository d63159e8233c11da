"""Signals that schedulers and closed terminals send, to ``detkds`` in each phase of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import tiny
from detkds.db import Store
from detkds.space import Status

pytestmark = pytest.mark.slow

OPTIONS = (
    "search.knowledge=['logits']",
    "search.weights=1",
    "final.compare=['found']",
)


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


def told(folder: Path) -> int:
    with suppress(Exception), store_of(folder) as store:
        return sum(row.tell_order is not None for row in store.trials(None))
    return 0


def training(folder: Path, name: str) -> bool:
    """Whether a training of this name is under way, and says how far it is."""
    return any(folder.glob(f"{name}*/progress.json"))


#: What the folder shows of each phase; the first is before Ray is there. A teacher's training and a
#: confirmation end as the final trainings do.
PHASES: dict[str, Callable[[Path], object]] = {
    "cluster": lambda folder: (folder / "detkds.db").is_file(),
    "trials": lambda folder: told(folder) >= 2,
    "final": lambda folder: training(folder, "trained/"),
}


def stopped_in(
    process: subprocess.Popen[str], reached: Callable[[], object], number: int, group: bool
) -> list[str]:
    """Send the signal when the phase is reached; returns what the command printed."""
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (os.killpg if group else os.kill)(process.pid, number)
    printed = process.communicate(timeout=60)[0]
    return printed.splitlines()


def test_a_search_goes_on_after_signals_in_every_phase(tmp_path):
    command = tiny.search_command(tmp_path, options=OPTIONS)
    before: dict[int, object] = {}
    for place, (phase, reached) in enumerate(PHASES.items()):
        number = signal.SIGHUP if phase == "trials" else signal.SIGTERM
        process = start(command)
        whole = phase in ("trials", "final")
        printed = stopped_in(process, partial(reached, tmp_path), number, whole)
        assert process.returncode == 128 + number, (phase, printed)
        said = [line for line in printed if "interrupted; go on with: detkds search" in line]
        assert len(said) == 1, (phase, printed)
        assert ("--resume" in said[0]) == (place > 0), (phase, said)
        assert not [line for line in printed if "Traceback" in line or "***" in line], printed
        assert printed[-1] == said[0], (phase, printed)
        command = tiny.search_command(tmp_path, *["--resume"] * (place > 0), options=OPTIONS)
        with store_of(tmp_path) as store:
            rows = {row.number: row for row in store.trials(None) if row.tell_order is not None}
        assert before.items() <= rows.items(), "what was told stays"
        before = rows
    done = tiny.run(command)
    assert done.returncode == 0, done.stderr
    with store_of(tmp_path) as store:
        assert before.items() <= {row.number: row for row in store.trials(None)}.items()
        assert {row.status for row in store.trainings()} == {Status.COMPLETED}


def test_a_training_says_how_to_go_on(tmp_path):
    options = "--cfg-options", *tiny.OPTIONS, "final.epochs=90", "final.compare=['none']"
    command = tiny.command(
        "train", "quickstart", "--distiller", "none", "--work-dir", tmp_path, *options
    )
    process = start(command)
    printed = stopped_in(process, partial(training, tmp_path, "trained/"), signal.SIGTERM, False)
    assert process.returncode == 143, printed
    said = [line for line in printed if not line.startswith("training: ")]
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
