"""Databases that do not answer for a while."""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import datetime, timezone
from typing import Any

import pytest
from conftest import postgresql_server
from detkds.db import CostRow, Store, database, transactions
from detkds.space import Candidate, Distiller, Outcome, SearchFailed, Status, WrongUse
from sqlalchemy import create_engine, event, make_url, text

GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
DONE = Outcome(Status.COMPLETED, score=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A PostgreSQL server that only these tests use, so that they may stop it."""
    with postgresql_server() as started:
        yield started


def stop(server: Any) -> None:
    """Stop the server as a crash would: at once, with its connections open."""
    process = server.get_postmaster_info().process
    os.kill(server.get_pid(), signal.SIGQUIT)
    process.wait(120)


class StandardError(io.StringIO):
    """Keeps what is written to it, and sets ``written`` at the first write."""

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


# Databases that do not answer


def test_a_write_waits_for_a_server_that_comes_back(server):
    with Store(server.get_uri(driver="psycopg")) as store:
        search = store.create_search("a", {}, "c", 0)
        trial = add(store, search.id, 0)
        with store.held("a"):
            stop(server)
            with once_it_says_so(server.ensure_postgres_running) as stderr:
                store.tell_trial(trial, DONE, tell_order=0)
        assert [row.outcome for row in store.trials(search.id)] == [DONE]
        (line,) = stderr.getvalue().splitlines()
        assert "trying again for 10 minutes" in line
        assert store.url in line


def test_writes_go_through_a_crash(server):
    with Store(server.get_uri(driver="psycopg")) as store:
        search = store.create_search("b", {}, "c", 0)
        crash = threading.Timer(0.3, lambda: (stop(server), server.ensure_postgres_running()))
        crash.start()
        number = 0
        while crash.is_alive() or number < 20:
            store.tell_trial(add(store, search.id, number), DONE, tell_order=number)
            number += 1
            time.sleep(0.01)
        rows = store.trials(search.id)
    assert [(row.number, row.tell_order) for row in rows] == [(n, n) for n in range(number)]


@contextmanager
def relay(server: Any) -> Iterator[tuple[str, threading.Event]]:
    """A URL that leads to the server through a relay, and an event that makes the relay fail once.

    While the event is set, the relay passes the next COMMIT to the server and waits for the answer.
    Then it clears the event and closes the connection instead of passing the answer on.
    """
    url = make_url(server.get_uri(driver="psycopg"))
    server_address = f"{url.query['host']}/.s.PGSQL.5432"
    fail = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(server_address)
            committing = False
            while True:
                for source in select.select([client, upstream], [], [])[0]:
                    data = source.recv(65536)
                    if committing and source is upstream:
                        fail.clear()
                        return
                    if not data:
                        return
                    committing = fail.is_set() and source is client and b"COMMIT" in data
                    (upstream if source is client else client).sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the test has closed the listener
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        host, port = listener.getsockname()
        yield (
            url.set(host=host, port=port, query={}).render_as_string(hide_password=False),
            fail,
        )
        listener.shutdown(socket.SHUT_RDWR)


def test_a_write_is_not_repeated_if_only_the_answer_to_its_commit_was_lost(server, capsys):
    cost = CostRow("d", "x", "kx", "y", "ky", 1.0, 2.0, {}, 5, datetime.now(timezone.utc))
    with relay(server) as (url, fail), Store(url) as store:

        def unanswered(method: str, *arguments: Any, **options: Any) -> Any:
            fail.set()
            result = getattr(store, method)(*arguments, **options)
            assert not fail.is_set()
            assert "trying again" in capsys.readouterr().err
            return result

        search = unanswered("create_search", "c", {}, "c", 0)
        trial = unanswered("add_trial", search.id, Candidate(0, "global", GLOBAL), 0, "c", 0)
        unanswered("start_trial", trial, "host", "cpu")
        unanswered("tell_trial", trial, DONE, tell_order=0)
        training = unanswered("add_training", "alone", 0, "val", "c", search.id)
        unanswered("finish_training", training, DONE)
        unanswered("add_costs", [cost])
        unanswered("finish_search", search.id)

        assert store.search("c").id == search.id
        assert [(row.id, row.tell_order) for row in store.trials(search.id)] == [(trial, 0)]
        assert [row.id for row in store.trainings(search.id)] == [training]
        assert store.costs("d", ["kx", "ky"]) == [cost]
        with pytest.raises(WrongUse, match="holds a search 'c' already"):
            store.create_search("c", {}, "c", 0)
        with pytest.raises(WrongUse, match="another process"):
            store.tell_trial(trial, DONE, tell_order=0)
        with pytest.raises(WrongUse, match="another process"):
            add(store, search.id, 0)


def test_a_write_waits_for_a_file_locked_for_longer_than_sqlite_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_LOCK_TIMEOUT_SECONDS", 0.1)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        other = sqlite3.connect(tmp_path / "detkds.db", check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        with once_it_says_so(other.commit) as stderr:
            store.create_search("a", {}, "c", 0)
        assert store.search("a")
        assert stderr.getvalue().count("database is locked") == 1
        other.close()


def test_a_database_that_does_not_answer_in_time_raises_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_LOCK_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(transactions, "PATIENCE_SECONDS", 0.5)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        other = sqlite3.connect(tmp_path / "detkds.db")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SearchFailed, match=r"^storage: .*detkds.db.*no answer for .*locked"):
            store.create_search("a", {}, "c", 0)
        other.close()


def test_other_errors_are_raised_at_once(store, url, capsys):
    """A store that waits says so first."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE trials"))
    engine.dispose()
    with pytest.raises(WrongUse, match="trials"):
        store.trials(None)
    assert capsys.readouterr().err == ""


def test_a_full_disk_and_a_read_only_file_are_waited_for(tmp_path):
    """SQLite's own limit of pages stands for a full disk."""
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        engine = store._engine
        with engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        engine.dispose()

        def limit(connection: Any, record: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {most[0]}")

        most = [pages]
        event.listen(engine, "connect", limit)

        def free() -> None:
            most[0] = 10**6
            engine.dispose()

        with once_it_says_so(free) as stderr:
            store.create_search("a", {"text": "x" * 10**5}, "c", 0)
        assert store.search("a")
        (line,) = stderr.getvalue().splitlines()
        assert "database or disk is full: trying again for 10 minutes" in line


def test_a_failover_to_a_read_only_server_is_waited_for(server):
    url = server.get_uri(driver="psycopg")
    other = create_engine(url, isolation_level="AUTOCOMMIT")

    def read_only(value: str) -> None:
        with other.connect() as connection:
            name = connection.scalar(text("SELECT current_database()"))
            connection.execute(
                text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
            )

    with Store(url) as store:
        read_only("on")
        store._engine.dispose()

        def back() -> None:
            with other.connect() as connection:
                connection.execute(text("SET default_transaction_read_only = off"))
                name = connection.scalar(text("SELECT current_database()"))
                connection.execute(
                    text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
                )
            store._engine.dispose()

        with once_it_says_so(back) as stderr:
            store.create_search("read only", {}, "c", 0)
        assert store.search("read only")
    other.dispose()
    assert "in a read-only transaction: trying again" in stderr.getvalue()


def test_a_lock_that_another_client_holds_is_said_and_waited_for(server, monkeypatch):
    monkeypatch.setattr(database, "_LOCK_TIMEOUT_SECONDS", 1)
    url = server.get_uri(driver="psycopg")
    engine = create_engine(url)
    with Store(url) as store, engine.connect() as other:
        other.execute(text("LOCK TABLE searches"))
        with once_it_says_so(other.commit) as stderr:
            store.create_search("locked", {}, "c", 0)
        assert store.search("locked")
    engine.dispose()
    assert "lock timeout: trying again" in stderr.getvalue()


def test_a_log_on_a_full_disk_does_not_end_the_waiting(tmp_path, monkeypatch):
    """Store and log may share the disk."""
    monkeypatch.setattr(database, "_LOCK_TIMEOUT_SECONDS", 0.1)
    with Store(f"sqlite:///{tmp_path}/detkds.db") as store:
        other = sqlite3.connect(tmp_path / "detkds.db", check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(1, other.commit).start()
        full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", closefd=False)
        with redirect_stderr(full):
            store.create_search("a", {}, "c", 0)
        assert store.search("a")
        other.close()
