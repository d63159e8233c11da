"""Who runs a search: processes that hold, lose and take the lease of a search of one name."""

from __future__ import annotations

import os
import re
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO

import pytest
from detkds.db import Store, lease
from detkds.space import Candidate, Distiller, SearchFailed, Status, WrongUse
from sqlalchemy import create_engine, text

pytestmark = pytest.mark.slow

GLOBAL = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
HEARTBEAT, EXPIRY = 0.3, 4
#: Who holds a lease, as messages say it.
WHO = r"\S+@\S+, process \d+, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"

#: Holds the search "a" as a driver on the host "$host"; each line that it reads is a write.
DRIVER = string.Template("""
import platform, sys, time
node = "$host" or platform.node()
platform.node = lambda: node
from detkds import __version__
from detkds.db import Store, lease
from detkds.space import Candidate, Distiller, SearchFailed
lease.HEARTBEAT_SECONDS, lease.EXPIRY_SECONDS = $heartbeat, $expiry
distiller = Distiller.parse("$distiller")
try:
    with Store(sys.argv[1]) as store, store.held("a"):
        search = store.find_search("a") or store.create_search("a", {}, "c", 0)
        print("held", flush=True)
        for number, line in enumerate(sys.stdin):
            if line == "wait\\n":
                time.sleep(600)
            store.add_trial(search.id, Candidate(number, "global", distiller), 0, "c", 0)
            print("written", flush=True)
except SearchFailed as error:
    print(error)
""")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", HEARTBEAT)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", EXPIRY)


@contextmanager
def driver(url: str, host: str = "") -> Iterator[subprocess.Popen[str]]:
    script = DRIVER.substitute(heartbeat=HEARTBEAT, expiry=EXPIRY, distiller=GLOBAL, host=host)
    with subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[str], line: str = "write") -> None:
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def write(process: subprocess.Popen[str]) -> str:
    say(process)
    return process.stdout.readline()


def test_a_search_is_held_until_its_process_ends(store, url):
    with driver(url) as other:
        began = time.monotonic()
        said = rf"^resume: another process runs the search 'a': {WHO}: let it finish or stop it$"
        with pytest.raises(WrongUse, match=said) as refused, store.held("a"):
            pass
        assert time.monotonic() - began < EXPIRY, "a process of this machine is seen to live"
        assert f"process {other.pid}," in str(refused.value)
        with store.held("another search/of any name"):
            pass
        assert write(other) == "written\n"
        other.kill()
        other.wait()
        began = time.monotonic()
        with store.held("a"):
            assert time.monotonic() - began < EXPIRY, "a process of this machine is seen to be gone"


def test_a_search_is_free_again_after_the_context(store):
    for _ in range(2):
        with store.held("a"), pytest.raises(WrongUse, match=WHO), store.held("a"):
            pass


def test_a_driver_of_another_host_is_asked_for_a_sign_of_life(store, url):
    with driver(url, host="elsewhere") as other:
        stderr = StringIO()
        with redirect_stderr(stderr), pytest.raises(WrongUse, match=WHO), store.held("a"):
            pass
        assert re.fullmatch(
            rf"detkds: the search 'a' was run by {WHO}, and may still be: waiting up to {EXPIRY} "
            r"seconds for a sign of life\n",
            stderr.getvalue(),
        )
        assert "@elsewhere" in stderr.getvalue()
        other.kill()
        other.wait()
        began = time.monotonic()
        with redirect_stderr(stderr), store.held("a"):
            assert time.monotonic() - began > EXPIRY / 2


@pytest.mark.parametrize("waits", [True, False])
def test_a_frozen_driver_that_was_replaced_stops_with_one_line(store, url, waits):
    with driver(url, host="elsewhere") as frozen:
        assert write(frozen) == "written\n"
        if waits:
            say(frozen, "wait")  # for a training, say; the heartbeat tells it
            time.sleep(0.5)
        os.kill(frozen.pid, signal.SIGSTOP)
        with redirect_stderr(StringIO()), store.held("a"):
            if not waits:
                say(frozen)  # while it is frozen: the write comes before the next heartbeat
            os.kill(frozen.pid, signal.SIGCONT)
            line = frozen.stdout.readline()
            frozen.wait(60)
            assert len(store.trials(None)) == 1, "it writes nothing more"
            store.add_trial(store.search("a").id, Candidate(1, "global", GLOBAL), 1, "c", 0)
    assert re.fullmatch(
        rf"the search 'a' was taken over by {WHO}, since this process gave no sign of life for "
        rf"{EXPIRY} seconds: this process stops, and what it wrote is kept\n",
        line,
    )


def test_a_frozen_driver_that_nobody_replaced_goes_on(store, url):
    with driver(url, host="elsewhere") as frozen:
        os.kill(frozen.pid, signal.SIGSTOP)
        time.sleep(1.5 * EXPIRY)
        os.kill(frozen.pid, signal.SIGCONT)
        assert write(frozen) == "written\n"
        with redirect_stderr(StringIO()), pytest.raises(WrongUse, match=WHO), store.held("a"):
            pass


def test_of_two_that_take_an_expired_lease_one_gets_it(store, url):
    """And the one that had it before sees that it was taken, although it is free again."""
    with driver(url, host="elsewhere") as frozen:
        os.kill(frozen.pid, signal.SIGSTOP)
        held, refused = [], []
        go, done = threading.Barrier(4), threading.Barrier(4)

        def take() -> None:
            with Store(url) as own:
                go.wait()
                try:
                    with own.held("a"):
                        held.append(1)
                        done.wait()
                except WrongUse:
                    refused.append(1)
                    done.wait()

        threads = [threading.Thread(target=take) for _ in range(4)]
        with redirect_stderr(StringIO()):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (len(held), len(refused)) == (1, 3)
        os.kill(frozen.pid, signal.SIGCONT)
        say(frozen)
        assert "was taken over by" in frozen.stdout.readline()


def test_a_lease_outlives_its_connections_and_who_wrote_is_known(postgresql):
    engine = create_engine(postgresql)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    with Store(postgresql) as store, store.held("a"):
        search = store.create_search("a", {}, "c", 0)
        with suppress(Exception), engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
            )
        with Store(postgresql) as other, pytest.raises(WrongUse, match=WHO), other.held("a"):
            pass
        store.add_trial(search.id, Candidate(0, "global", GLOBAL), 0, "c", 0)
        (row,) = store.trials(search.id)
        assert row.status is Status.QUEUED
        assert row.holder == search.holder == lease.holder()
        assert [record["holder"] for record in store.trial_records()] == [lease.holder()]
    engine.dispose()


def test_a_driver_whose_lease_is_gone_writes_nothing(store):
    with store.held("a"):
        with store._engine.begin() as connection:
            connection.execute(text("DELETE FROM leases"))
        with pytest.raises(SearchFailed, match="was taken over"):
            store.create_search("a", {}, "c", 0)
    assert store.find_search("a") is None


def test_a_driver_that_is_told_in_a_transaction_stops_after_it(store):
    """On PostgreSQL, an exception within a query would leave the connection in it."""
    reached: list[str] = []

    def read(session):
        end = time.monotonic() + 60
        while not signal_seen and time.monotonic() < end:
            session.execute(text("SELECT 1"))
        reached.append("the end of the transaction")

    signal_seen: list[int] = []
    with pytest.raises(SearchFailed, match="was taken over"), store.held("a"):  # noqa: PT012
        handler = signal.getsignal(signal.SIGUSR2)

        def seen(number, frame):
            try:
                handler(number, frame)
            finally:
                signal_seen.append(number)

        signal.signal(signal.SIGUSR2, seen)
        with store._engine.begin() as connection:
            connection.execute(text("DELETE FROM leases"))
        store._transactions.read(read)
        reached.append("what comes next")
    assert signal_seen
    assert reached == ["the end of the transaction"]
    assert store.searches() == []
