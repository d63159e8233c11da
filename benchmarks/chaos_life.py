"""One life of a driver: a process that runs a search until it is done, or until a fault ends it.

The driver's controller, session, store, lease and signals are the real ones. Its workers are
simulated: a trial takes no time, and ends in an order by chance.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import platform
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos_faults import FROZEN, FULL, KILLED, LOG_FULL, TERMINATED, Fault
from detkds.cli.interrupts import ended_by_signals
from detkds.db import Store, lease
from detkds.db.transactions import Transactions
from detkds.search.controller import Controller
from detkds.search.session import Session
from detkds.settings import Search
from detkds.space import Candidate, Outcome, SearchFailed, SearchSpace, Status, WrongUse
from sqlalchemy import Engine, event

#: A driver's sign of life, and how long another waits for one, in seconds.
HEARTBEAT, EXPIRY = 0.3, 4.0
#: Seconds that a store has no room.
OUTAGE = 1.5
SPACE = SearchSpace.preset().only(["global", "logits"])
#: Where a driver does a trial's steps; a result has no method of its own.
METHODS: dict[str, tuple[type, str]] = {
    "ask": (Session, "ask"),
    "add": (Store, "add_trial"),
    "dispatch": (Session, "started"),
    "store": (Store, "tell_trial"),
    "tell": (Controller, "tell"),
}


@dataclass(frozen=True)
class Job:
    """One search under faults. ``places``: of its start, or of its population."""

    name: str
    algorithm: str
    divide: bool
    trials: int
    workers: int
    url: str
    seed: int

    @property
    def store(self) -> str:
        return self.url.partition(":")[0].partition("+")[0]

    @property
    def settings(self) -> Search:
        if not self.divide:
            return Search(
                algorithm=self.algorithm,
                divide=False,
                trials=self.trials,
                population=POPULATION,
                start=[],
            )
        weights = self.trials // 5
        iterations = max(1, ((self.trials - weights) // len(SPACE.knowledge) - POPULATION) // 2)
        return Search(population=POPULATION, iterations=iterations, weights=weights, start=[])

    def controller(self) -> Controller:
        return Controller(SPACE, self.settings, self.seed)


#: Members of a population: the places that can be asked for before an outcome is known.
POPULATION = 4


def score(candidate: Candidate) -> Outcome:
    """A trial's outcome, which the distiller alone decides, and the bar.

    One candidate in seven is rejected, one in twenty fails. A training gains up to 0.2 in its
    second half.
    """
    rng = random.Random(candidate.distiller.key)
    chance = rng.random()
    if chance < 1 / 7:
        return Outcome.rejected("loss is NaN at iteration 3")
    if chance < 1 / 7 + 1 / 20:
        return Outcome.failed("RuntimeError: a simulated failure")
    final = rng.random()
    early = max(0.0, final - 0.2 * rng.random())
    if candidate.early_bar is None:
        return Outcome(Status.COMPLETED, score=final)
    if early < candidate.early_bar:
        return Outcome(Status.STOPPED, early_score=early, reason="stopped halfway")
    return Outcome(Status.COMPLETED, score=final, early_score=early)


@dataclass
class Driver:
    """A driver in a process of its own, which is a fork of this one.

    It says on ``said`` what it does, a line of JSON each, and when a fault strikes that others have
    to act on, waits for a byte on ``go``. What it prints can be read from ``printed``.
    """

    job: Job
    faults: list[Fault]
    host: str | None = None
    privileged: bool = True
    process: int = 0
    said: int = -1
    go: int = -1
    printed: int = -1

    def start(self) -> Driver:
        """Fork. The caller holds no connection to a database."""
        self.said, says = os.pipe()
        waits, self.go = os.pipe()
        self.printed, prints = os.pipe()
        self.process = os.fork()
        if self.process:
            for descriptor in (says, waits, prints):
                os.close(descriptor)
            return self
        code = 70
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # Linux: no driver outlives the benchmark
            os.dup2(prints, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
            if not self.privileged and os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            code = Life(self, says, waits).run()
        except BaseException:
            os.write(prints, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def close(self) -> str:
        """What it has printed."""
        text = b""
        while part := os.read(self.printed, 65536):
            text += part
        for descriptor in (self.said, self.go, self.printed):
            os.close(descriptor)
        return text.decode("utf-8", "replace")


class Life:
    """What the process of a driver does."""

    def __init__(self, driver: Driver, says: int, waits: int) -> None:
        self.job, self.faults, self.host = driver.job, list(driver.faults), driver.host
        self.says, self.waits = says, waits
        self.calls = itertools.count(1)
        self.beats = threading.Lock()
        self.full: threading.Timer | None = None

    def run(self) -> int:
        """As the command does, return the exit code, and print one line if it isn't 0."""
        lease.HEARTBEAT_SECONDS, lease.EXPIRY_SECONDS = HEARTBEAT, EXPIRY
        if self.host is not None:
            host = self.host
            platform.node = lambda: host
        self._watch_statements()
        self._watch_heartbeats()
        again = f"detkds search {self.job.name} --resume"
        with ended_by_signals(again) as interrupts:
            code, message = 0, ""
            try:
                self._search()
            except WrongUse as error:
                code, message = 2, str(error)
            except SearchFailed as error:
                code, message = 1, str(error)
            except KeyboardInterrupt:
                code = 130
            if interrupts.number is not None and code:
                interrupts.tell(again, lambda text: print(text, file=sys.stderr))
                return interrupts.exit_code
        if message:
            print(f"detkds: {message}", file=sys.stderr)
        return code

    def _search(self) -> None:
        job = self.job
        with Store(job.url) as store, store.held(job.name):
            known = store.find_search(job.name)
            search = known or store.create_search(job.name, {}, job.name, job.seed)
            session = Session(job.controller(), store, search.id, job.name, job.seed)
            session.resume()
            self._watch_methods()
            running: list[Candidate] = []
            rng = random.Random(f"{job.seed}/{session.outcomes}")
            while not session.done:
                while len(running) < job.workers and (one := session.ask()) is not None:
                    session.started(one, "host", "cpu")
                    self.record("evaluated")
                    running.append(one)
                if not running:
                    if session.done:
                        break
                    raise RuntimeError("nothing runs, nothing is asked for, and it isn't done")
                candidate = running.pop(rng.randrange(len(running)))
                self.at("result", False)
                outcome = score(candidate)
                self.at("result", True)
                session.tell(candidate, outcome)
            if session.failure is not None:
                raise SearchFailed(f"{session.failures} trials in a row failed")
            store.finish_search(search.id)

    def record(self, what: str, **more: Any) -> None:
        line = {"time": time.monotonic(), "what": what, **more}
        os.write(self.says, (json.dumps(line) + "\n").encode())

    # Faults

    def _watch_methods(self) -> None:
        for step, (owner, name) in METHODS.items():
            setattr(owner, name, self._watched(step, getattr(owner, name)))

    def _watched(self, step: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> Any:
            self.at(step, False)
            if step == "tell":  # what the search has heard of must be in the store from now on
                number, outcome = arguments[1].number, arguments[2].to_json()
                self.record("told", number=number, outcome=outcome)
            result = method(*arguments, **more)
            self.at(step, True)
            return result

        return watched

    def _watch_heartbeats(self) -> None:
        once = Transactions.once

        def alone(*arguments: Any) -> Any:
            with self.beats:
                return once(*arguments)

        Transactions.once = alone  # type: ignore[method-assign,assignment]

    def _watch_statements(self) -> None:
        for name, step, after in (
            ("before_cursor_execute", "statement", False),
            ("after_cursor_execute", "statement", True),
            ("commit", "commit", False),
        ):
            event.listen(Engine, name, lambda *_, step=step, after=after: self.at(step, after))

    def at(self, step: str, after: bool) -> None:
        """The driver comes to a place: the next fault strikes if it is due."""
        if not self.faults or threading.current_thread() is not threading.main_thread():
            return
        fault = self.faults[0]
        if (fault.step, fault.after) != (step, after) or next(self.calls) < fault.call:
            return
        self.faults.pop(0)
        if self.full is not None:  # one fault at a time
            self.full.join()
        self.calls = itertools.count(1)
        self.record("struck", fault=fault.kind)
        self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        if fault.kind == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == TERMINATED:
            os.kill(os.getpid(), signal.SIGTERM)
        elif fault.kind in (FULL, LOG_FULL):
            self._fill_disk(with_log=fault.kind == LOG_FULL)
        elif fault.kind == FROZEN:
            with self.beats:  # frozen within a heartbeat, it would keep SQLite's lock
                os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.read(self.waits, 1)

    def _fill_disk(self, with_log: bool) -> None:
        """No file grows for a while: the kernel refuses each write, as on a full file system.

        ``with_log``: what the driver prints goes to a full device meanwhile.
        """
        kept, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
        if with_log:
            os.dup2(full, 2)
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, most[1]))

        def free() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
            os.dup2(kept, 2)

        self.full = threading.Timer(OUTAGE, free)
        self.full.daemon = True
        self.full.start()
