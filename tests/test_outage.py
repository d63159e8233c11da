"""Databases that go away for a while, and processes that run the same search."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import pytest
from conftest import postgresql_server
from detkds.db import Store, patience, sqlite
from detkds.space import Candidate, Distiller, Outcome, Status, WrongUse
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
DONE = Outcome(Status.COMPLETED, score=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A PostgreSQL of one's own, to be stopped."""
    with postgresql_server() as started:
        yield started


def stop(server: Any) -> None:
    """At once, as a crash would: connections are cut."""
    process = server.get_postmaster_info().process
    os.kill(server.get_pid(), signal.SIGQUIT)
    process.wait(120)


class StandardError(io.StringIO):
    """What is written to it; ``written`` is set once something is."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


@contextmanager
def once_it_says_so(action: Callable[[], Any]) -> Iterator[StandardError]:
    """Act when the store has said that it waits: not before, however slow the machine is."""
    stderr = StandardError()

    def wait_and_act() -> None:
        if stderr.written.wait(300):
            action()

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    with redirect_stderr(stderr):
        yield stderr
    thread.join()


def add(store: Store, search_id: int, number: int) -> int:
    return store.add_trial(search_id, Candidate(number, "global", GLOBAL), number, "c", 0)


# Databases that go away


def test_a_write_waits_for_a_server_that_comes_back(server):
    with Store(server.get_uri(driver="psycopg")) as store:
        search = store.create_search("a", {}, "c", 0)
        trial = add(store, search.id, 0)
        with store.held("a"):
            stop(server)
            with once_it_says_so(server.ensure_postgres_running) as stderr:
                store.tell_trial(trial, DONE, told=0)
        assert [row.outcome for row in store.trials(search.id)] == [DONE]
        (line,) = stderr.getvalue().splitlines()
        assert "does not answer" in line
        assert store.url in line


def test_writes_go_through_a_crash(server):
    with Store(server.get_uri(driver="psycopg")) as store:
        search = store.create_search("b", {}, "c", 0)
        crash = threading.Timer(0.3, lambda: (stop(server), server.ensure_postgres_running()))
        crash.start()
        number = 0
        while crash.is_alive() or number < 20:
            store.tell_trial(add(store, search.id, number), DONE, told=number)
            number += 1
            time.sleep(0.01)
        rows = store.trials(search.id)
    assert [(row.number, row.told) for row in rows] == [(n, n) for n in range(number)]


def test_a_write_that_had_gone_through_is_not_written_again(url):
    """The connection may be lost between the commit and the word of it."""
    with Store(url) as store:
        search = store.create_search("c", {}, "c", 0)
        first = add(store, search.id, 0)
        store.repeats = True
        assert add(store, search.id, 0) == first
        store.tell_trial(first, DONE, told=0)
        store.repeats = True
        store.tell_trial(first, DONE, told=0)
        assert not store.repeats
        with pytest.raises(WrongUse, match="another process"):
            store.tell_trial(first, DONE, told=0)


def test_a_file_locked_for_longer_than_sqlite_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_LOCK_TIMEOUT_SECONDS", 0.1)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        other = sqlite3.connect(tmp_path / "detkds.db", check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        with once_it_says_so(other.commit) as stderr:
            store.create_search("a", {}, "c", 0)
        assert store.search("a")
        assert stderr.getvalue().count("database is locked") == 1
        other.close()


def test_patience_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_LOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(patience, "PATIENCE", 0.5)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        other = sqlite3.connect(tmp_path / "detkds.db")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(WrongUse, match=r"--storage: .*detkds.db.*no answer for .*locked"):
            store.create_search("a", {}, "c", 0)
        other.close()


def test_other_errors_are_told_at_once(store, url, capsys):
    """A store that waits says so first."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE trials"))
    engine.dispose()
    with pytest.raises(DBAPIError, match="trials"):
        store.trials(None)
    assert capsys.readouterr().err == ""


# Several processes

HOLDER = """
import sys
from detkds import __version__
from detkds.db import Store
with Store(sys.argv[1]) as store, store.held("a"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_search_is_held_by_one_process_until_it_ends(store, url):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    refused = pytest.raises(WrongUse, match="another process runs the search 'a': let it finish")
    with refused, store.held("a"):
        pass
    assert time.monotonic() - began < sqlite._LOCK_TIMEOUT_SECONDS / 2, "it did not wait its turn"
    with store.held("another search/of any name"):
        pass
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 120  # PostgreSQL notices a moment later
    while time.monotonic() < deadline:
        try:
            with store.held("a"):
                return
        except WrongUse:
            time.sleep(0.1)
    pytest.fail("still held")


def test_a_search_is_given_back(store):
    for _ in range(2):
        with store.held("a"), pytest.raises(WrongUse), store.held("a"):
            pass
