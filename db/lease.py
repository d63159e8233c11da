"""Who runs a search: a row that the driver renews, and that another may take when it is not.

The row is all there is: no lock of a session, a connection or a file system. So it outlives a
restart of PostgreSQL and a lost connection, and works behind PgBouncer. Every write of a search
renews the row in its own transaction: a driver that another has replaced writes nothing more.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..space import SearchFailed, WrongUse
from .database import READING
from .models import Lease, now
from .transactions import Transactions, say

#: Seconds between two heartbeats of a driver.
HEARTBEAT_SECONDS = 10.0
#: A lease without a heartbeat for so many seconds may be taken by another driver.
EXPIRY_SECONDS = 60.0


def holder() -> str:
    """The user of this process and the host, as rows name who wrote them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def process_key() -> str | None:
    """What tells this process from all others that ever ran on this host, or None.

    Processes that have equal keys but for the start time see the same process numbers. None: the
    system does not say.
    """
    try:
        space = f"{_read('/proc/sys/kernel/random/boot_id')}/{os.readlink('/proc/self/ns/pid')}"
        return f"{space}/{_started(os.getpid())}"
    except (OSError, IndexError):
        return None


def _read(path: str) -> str:
    return Path(path).read_text("utf-8", "replace").strip()


def _started(process: int) -> str:
    """When a process started, in the kernel's ticks. Zombies count as ended: IndexError."""
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise IndexError
    return fields[19]


def _is_near(lease: Lease) -> bool:
    """Whether this process would see the lease's process if that one lived."""
    mine = process_key()
    if mine is None or lease.process_key is None or lease.host != platform.node():
        return False
    return mine.rpartition("/")[0] == lease.process_key.rpartition("/")[0]


def _has_ended(lease: Lease) -> bool:
    """Whether the lease's process is known to be no more."""
    if not _is_near(lease):
        return False
    try:
        return _started(lease.process) != (lease.process_key or "").rpartition("/")[2]
    except (OSError, IndexError):
        return True


@dataclass
class Held:
    """A lease of this process. ``lost``: in one line, who has taken it, and when."""

    name: str
    token: str
    lost: str | None = None
    interrupt: Callable[[], None] = lambda: None

    def renew(self, session: Session) -> Lease:
        """Give a sign of life, and return the lease's row.

        Raises :class:`SearchFailed` if another driver has the lease. In the transaction of a write:
        nobody takes the lease until the transaction ends.
        """
        row = _row(session, self.name)
        if row is None or row.token != self.token:
            self.lost = _lost(self.name, row)
            raise SearchFailed(self.lost)
        row.heartbeat = _now(session)
        return row


def _row(session: Session, name: str) -> Lease | None:
    """The lease of the search of this name, locked until the transaction ends."""
    return session.scalar(select(Lease).filter_by(name=name).with_for_update())


def _lost(name: str, row: Lease | None) -> str:
    by = f" by {_who(row)}" if row is not None else ""
    return (
        f"the search '{name}' was taken over{by}, since this process gave no sign of life for "
        f"{EXPIRY_SECONDS:.0f} seconds: this process stops, and what it wrote is kept"
    )


def _who(lease: Lease) -> str:
    since = lease.since.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{lease.holder}, process {lease.process}, since {since}"


def _refused(name: str, lease: Lease) -> WrongUse:
    return WrongUse(
        f"another process runs the search '{name}': {_who(lease)}: let it finish or stop it",
        setting="resume",
    )


@contextmanager
def leased(transactions: Transactions, name: str) -> Iterator[None]:
    """Hold the lease of the search of this name, with a heartbeat, until the block ends.

    A lease of a process of this machine that has ended is taken at once. Another's is watched: a
    heartbeat refuses it (:class:`WrongUse`), and after :data:`EXPIRY_SECONDS` without one it is
    taken. When another driver takes the lease, the block's next write raises :class:`SearchFailed`,
    which says who has taken it; the main thread is interrupted by it wherever it waits.
    """
    held = _take(transactions, name)
    stopped = threading.Event()
    beat = threading.Thread(target=_beat, args=(transactions, held, stopped), daemon=True)
    guard, transactions.guard = transactions.guard, held.renew
    with _interrupted_when_lost(held, transactions) as interrupt:
        held.interrupt = interrupt
        beat.start()
        try:
            yield
        finally:
            stopped.set()
            transactions.guard = guard
            if held.lost is None:
                with suppress(Exception):  # a database that is away keeps a lease that expires
                    transactions.once(lambda session: _release(session, held))


@contextmanager
def _interrupted_when_lost(held: Held, transactions: Transactions) -> Iterator[Callable[[], None]]:
    """Yields what another thread calls to interrupt the main thread, by a signal of its own.

    The main thread may be waiting for a training, which takes hours. A transaction of its own comes
    to its end first.
    """
    number = getattr(signal, "SIGUSR2", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def interrupt(number: int, frame: object) -> None:
        if held.lost is not None:
            return transactions.interrupt(SearchFailed(held.lost))
        signal.signal(number, before)
        signal.raise_signal(number)  # somebody else's signal

    before = signal.signal(number, interrupt)
    try:
        yield partial(signal.pthread_kill, threading.get_ident(), number)
    finally:
        signal.signal(number, before)


def _take(transactions: Transactions, name: str) -> Held:
    """Take the lease, or raise :class:`WrongUse` if another process holds it."""
    seen: tuple[str, datetime | None] | None = None
    while True:
        held = Held(name, secrets.token_hex(8))
        try:
            with transactions.telling_what_is_broken():
                other = transactions.write_once(
                    lambda session, repeated, held=held: _try_to_take(session, held, repeated)  # type: ignore[misc]
                )
        except IntegrityError:  # another process has made the row at the same moment
            continue
        if other is None:
            return held
        state = other.token, other.heartbeat
        if seen is None and not _is_near(other):
            say(
                f"the search '{name}' was run by {_who(other)}, and may still be: waiting up to "
                f"{EXPIRY_SECONDS:.0f} seconds for a sign of life"
            )
        elif seen != state:
            raise _refused(name, other)
        seen = state
        time.sleep(min(1.0, HEARTBEAT_SECONDS / 4))


def _try_to_take(session: Session, held: Held, repeated: bool) -> Lease | None:
    """Take the lease if it is free, expired or of a process that has ended; else return its row."""
    row = _row(session, held.name)
    if repeated and row is not None and row.token == held.token:
        return None
    time_there = _now(session)
    if row is not None and row.heartbeat is not None:
        oldest = time_there - timedelta(seconds=EXPIRY_SECONDS)
        if row.heartbeat > oldest and not _has_ended(row):
            session.expunge(row)
            return row
    row = row or Lease(name=held.name)
    row.token, row.holder, row.host = held.token, holder(), platform.node()
    row.process, row.process_key = os.getpid(), process_key()
    row.since = row.heartbeat = time_there
    row.doing = None
    session.add(row)
    session.flush()
    return None


def _now(session: Session) -> datetime:
    """The server's time: the clocks of two hosts may differ by more than a lease lasts."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalar(select(func.clock_timestamp())) or now()
    return now()


def _release(session: Session, held: Held) -> None:
    """Free the lease. Its row stays: a driver that was frozen sees that another has had it."""
    row = _row(session, held.name)
    if row is not None and row.token == held.token:
        row.heartbeat = row.doing = None


def _beat(transactions: Transactions, held: Held, stopped: threading.Event) -> None:
    """Renew the lease until it is freed or lost, and say what the driver does.

    A database that is away is asked again. A driver that was frozen for longer than a lease lasts
    has it again if nobody else took it.
    """

    def beat(session: Session) -> None:
        held.renew(session).doing = transactions.doing

    while not stopped.wait(HEARTBEAT_SECONDS):
        with suppress(Exception):
            transactions.once(beat)
        if held.lost is not None and not stopped.is_set():
            held.interrupt()
            return


def current_leases(engine: Engine) -> list[str]:
    """In a line each, the searches that are run now, and by whom."""
    if not inspect(engine).has_table(Lease.__tablename__):
        return []
    with Session(engine.execution_options(**READING)) as session:
        oldest = _now(session) - timedelta(seconds=EXPIRY_SECONDS)
        rows = session.scalars(select(Lease).where(Lease.heartbeat > oldest).order_by(Lease.name))
        return [f"'{row.name}' is run by {_who(row)}" for row in rows if not _has_ended(row)]
