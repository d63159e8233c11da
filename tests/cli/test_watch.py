"""``detkds watch`` shows what the store says of a search, whichever database holds it."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time

import pytest
import simulated_search
import tiny
from detkds.cli import standing, watch
from detkds.db import Store, lease
from detkds.db.lease import holder
from detkds.db.runners import doing_now, runner_and_doing
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.space import Outcome, Progress, Status
from rich.console import Console
from stored_search import FOUND, NASTY, add, finished_search, large_search
from terminal import Terminal


@pytest.fixture
def shown(monkeypatch) -> io.StringIO:
    """What is printed where there is no terminal."""
    console = Console(file=io.StringIO(), width=160)
    monkeypatch.setattr(watch, "console", console)
    return console.file


def test_a_look_shows_counts_leaders_and_reasons(store, shown):
    finished_search(store)
    watch.watch(store, "cells", once=True)
    text = shown.getvalue()
    assert text.startswith("cells: finished ")
    assert "6 trials: 3 completed, 1 stopped, 1 rejected, 1 failed; 100 s a trial" in text
    assert f"most often (2): {NASTY}" in text
    assert "▁▄█ 20.0 → 31.0" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["start", "26.0", "1", "global:", "identity,", "pearson", "×", "5"] in rows
    assert ["20.0", "0", "none"] in rows
    *_, leader, compared = text.splitlines()
    assert leader == f"best AP 31.0 (trial 2): {str(FOUND).replace(chr(10), '; ')}"
    assert compared == "for comparison: student alone AP 20.0, teacher AP 55.0"


def test_trials_and_trainings_that_run_are_shown(store, shown):
    search = store.create_search("now", {}, "conditions", 0)
    watch.watch(store, "now", once=True)
    assert shown.getvalue() == (
        "now: interrupted: nobody runs it now\nno trial yet\nno completed trial yet\n"
    )
    with store.held("now"):
        watch.watch(store, "now", once=True)
    assert f"now: run by {holder()}, process {os.getpid()}, since " in shown.getvalue()
    store.start_trial(add(store, search.id, 0, "logits: norm_n, l2 × 5", "logits"), "here", "cpu")
    store.add_training("found", 3, "test", "conditions", search.id)
    watch.watch(store, "now", once=True)
    running = r"running  0 logits for \d+ s on here cpu: logits: norm_n, l2 × 5"
    assert re.search(running, shown.getvalue())
    assert re.search(r"training  found, seed 3 for \d+ s", shown.getvalue())


def test_how_far_trials_and_trainings_are_comes_by_the_database_alone(
    store, url, shown, monkeypatch
):
    """What the driver knows is in the row of its lease from the next heartbeat on."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    search = store.create_search("now", {}, "conditions", 0)
    controller = Controller(simulated_search.SPACE, simulated_search.SETTINGS, seed=0)
    session = Session(controller, store, search.id, "conditions", 0)
    candidate = session.ask()
    assert candidate is not None
    session.started(candidate, "here", "cpu")
    session.progress({candidate.number: Progress(3, 9, 0.25, 300.0)})
    with Store(url) as other, store.held("now"):
        doing_now(store, **session.doing)
        _until_said(other, "trials")
        watch.watch(other, "now", once=True)
        store.add_training("found", 3, "test", "conditions", search.id)
        doing_now(store, trainings={"found-seed3": (40, 90)})
        _until_said(other, "trainings")
        watch.watch(other, "now", once=True)
    first, second = shown.getvalue().split("now: run by")[1:]
    running = (
        rf"running  0 {candidate.stage} for \d+ s on here cpu, iteration 3/9, loss 0.25, 5 min "
    )
    assert re.search(running, " ".join(first.split("\n")))
    (left,) = re.findall(r"1 trials: 1 running; about (\d+) min left of the trials", first)
    assert int(left) >= 5 * controller.planned
    assert re.search(r"training  found, seed 3 for \d+ s, iteration 40/90", second)
    assert runner_and_doing(store, "now") is None, "nobody runs it now"


def _until_said(store: Store, what: str) -> None:
    deadline = time.monotonic() + 60
    while what not in (runner_and_doing(store, "now") or ("", {}))[1]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_a_terminal_a_line_tells_of_each_change_until_the_end(store, shown, monkeypatch):
    search = store.create_search("now", {}, "conditions", 0)
    trial = add(store, search.id, 0, "logits: norm_n, l2 × 5", "logits")
    steps = iter(
        [
            lambda: None,
            lambda: store.tell_trial(trial, Outcome(Status.COMPLETED, 0.25), 0),
            lambda: store.finish_search(search.id),
        ]
    )
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        next(steps)()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch(store, "now")
    assert slept == [watch.LINE_EVERY] * 3
    assert shown.getvalue().splitlines() == [
        "1 trials: 1 queued; no completed trial yet",
        "1 trials: 1 completed; best AP 25.0 (trial 0): logits: norm_n, l2 × 5",
    ]


def test_the_best_so_far_never_falls(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        large_search(store, 300)
        trials = watch.look(store, "large").trials
    best = standing.best_so_far(trials)
    assert best == sorted(best)
    assert best[-1] == max(trial.score or 0 for trial in trials)
    assert len(standing.sparkline(best).split(" ")[0]) == standing.WIDTH


@pytest.mark.slow
def test_a_terminal_follows_a_search_of_another_process(tmp_path):
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        search = store.create_search("now", {}, "conditions", 0)
        trial = add(store, search.id, 0, "logits: norm_n, l2 × 5", "logits")
        terminal = Terminal(tiny.command("watch", "now", "--work-dir", tmp_path))
        terminal.wait_for(lambda screen: "1 trials: 1 queued" in screen)
        store.tell_trial(trial, Outcome(Status.COMPLETED, 0.25), 0)
        terminal.wait_for(lambda screen: any("best AP 25.0" in line for line in screen))
        store.finish_search(search.id)
    assert terminal.wait() == 0
    assert terminal.screen[0].startswith("now: finished")


@pytest.mark.slow
def test_watching_keeps_no_writer_waiting(store, url, monkeypatch):
    """A look at 2,000 trials again and again beside a process that writes."""
    large_search(store, 2000)
    search = store.create_search("now", {}, "conditions", 0)
    number = 0

    def write(count: int) -> float:
        nonlocal number
        times = []
        for _ in range(count):
            began = time.perf_counter()
            add(store, search.id, number, "logits: norm_n, l2 × 5", "logits")
            times.append(time.perf_counter() - began)
            number += 1
        return max(times)

    write(5)
    done = threading.Event()

    def look() -> None:
        with Store(url) as other:
            while not done.is_set():
                watch.look(other, "large")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        slowest = write(30)
    finally:
        done.set()
        watcher.join()
    print(f"slowest of 30 writes: {slowest:.3f} s", file=sys.stderr)
    assert slowest < 5, "a reader holds no lock that a writer waits for"
