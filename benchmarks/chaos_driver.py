"""The driver's layer: searches whose drivers are struck, life after life, until each is done.

After every life the store is compared with what it held before, and with what the search had heard
of; at the end, a search of one worker with the same search unbroken.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from chaos_faults import (
    AWAY,
    CUT,
    FAILED_OVER,
    FROZEN,
    KILLED,
    LOCKED,
    READ_ONLY,
    RESTARTED,
    SECOND,
    TERMINATED,
    Fault,
    plan,
)
from chaos_life import OUTAGE, POPULATION, Driver, Job
from chaos_world import BOUND, Broken, Say, Tally, World
from detkds.db import Store, TrialRow
from detkds.db.rows import SCORED
from detkds.space import Outcome, Status
from sqlalchemy import make_url

#: Searches take turns, and so do numbers of workers.
ALGORITHMS = (("algorithm1", True), ("algorithm1", False), ("thompson", False), ("random", False))
WORKERS = (1, 2, POPULATION + 1, 2 * POPULATION)
WAKE = Fault("wake", "tell", True, 1)
_INTERRUPTED = r"interrupted; go on with: detkds search \S+ --resume"
_WAITS = r"detkds: .*: trying again for .*|detkds: the search '\S+' was run by .*: waiting up to .*"
_TAKEN = rf"(({_WAITS})\n)*detkds: the search '\S+' was taken over by .*"
_REFUSED = (
    rf"(({_WAITS})\n)*detkds: resume: another process runs the search '\S+': "
    r"\S+, process \d+, since .*"
)
_UNUSABLE = r"detkds: storage: can't use '.*': .*(readonly|read-only|unable to open).*"


class Search:
    """One search from its first driver to its last."""

    def __init__(self, job: Job, world: World, tally: Tally) -> None:
        self.job, self.world, self.tally = job, world, tally
        self.struck: list[Fault] = []
        self.frozen: Driver | None = None
        self.recovering: list[tuple[Fault, float]] = []
        self.evaluated = 0
        self.allowed = 0
        self.rows: list[TrialRow] = []
        self.store: Store | None = None

    def run(self, queue: list[Fault]) -> None:
        """Run it to its end under the faults from the queue's head; those that strike leave it."""
        woken: list[Fault] = []
        for _ in count():
            ending = next((n for n, fault in enumerate(queue, 1) if fault.ends), len(queue))
            faults = queue[:ending]
            last = faults[-1].kind if faults else ""
            driver = Driver(self.job, woken + faults, "elsewhere" if last == FROZEN else None)
            woken = []
            if faults and faults[0].kind == READ_ONLY:
                self._start_read_only(driver, queue)
                continue
            code, printed = self._follow(driver.start(), queue)
            self._look(driver)
            if self.frozen is driver:
                woken = [WAKE]
                continue
            if code == 0:
                self._only(printed, _WAITS)
                break
            self._ended_as(self.struck[-1] if self.struck else None, code, printed)
        if self.frozen is not None:
            self._wake()
        self._check_end()

    # A life

    def _follow(self, driver: Driver, queue: list[Fault]) -> tuple[int, str]:
        """Act on what the driver says until it ends, or is frozen: its exit code, and its words."""
        self.heard: list[dict] = []
        buffer = b""
        while True:
            if not select.select([driver.said], [], [], BOUND)[0]:
                os.kill(driver.process, signal.SIGKILL)
                os.waitpid(driver.process, 0)
                raise self._broken(f"a driver did nothing for {BOUND:.0f} s; {driver.close()}")
            part = os.read(driver.said, 65536)
            if not part:
                status = os.waitstatus_to_exitcode(os.waitpid(driver.process, 0)[1])
                return status, driver.close()
            *lines, buffer = (buffer + part).split(b"\n")
            for line in map(json.loads, lines):
                self.heard.append(line)
                if line["what"] == "evaluated":
                    self.evaluated += 1
                elif line["what"] == "told":
                    self._recovered(line["time"])
                elif line["fault"] == WAKE.kind:
                    self._wake()
                    os.write(driver.go, b".")
                elif self._struck(driver, queue.pop(0), line["time"]):
                    return 0, ""

    def _struck(self, driver: Driver, fault: Fault, when: float) -> bool:
        """A fault has struck; whether its driver is frozen now."""
        self.struck.append(fault)
        self.tally.row(fault.kind).faults += 1
        if fault.ends:
            self.allowed += self.job.workers
        self.recovering.append((fault, when))
        if fault.kind == FROZEN:
            os.waitpid(driver.process, os.WUNTRACED)
            self.frozen = driver
            return True
        if fault.kind == SECOND:
            second = Driver(self.job, []).start()
            code, printed = self._outcome_of(second)
            if code != 2 or not re.fullmatch(_REFUSED, printed.strip()):
                raise self._broken(f"a second driver ended with {code}: {printed}")
            os.write(driver.go, b".")
        elif fault.kind in (LOCKED, RESTARTED, AWAY, CUT, FAILED_OVER):
            end = self.world.act(fault.kind)
            os.write(driver.go, b".")
            if fault.kind in (LOCKED, FAILED_OVER):
                time.sleep(OUTAGE)
            end()
        return False

    def _outcome_of(self, driver: Driver) -> tuple[int, str]:
        """The exit code and the words of a driver that is to end by itself."""
        began = time.monotonic()
        while time.monotonic() - began < BOUND:
            process, status = os.waitpid(driver.process, os.WNOHANG)
            if process:
                return os.waitstatus_to_exitcode(status), driver.close()
            time.sleep(0.01)
        os.kill(driver.process, signal.SIGKILL)
        os.waitpid(driver.process, 0)
        raise self._broken(f"a driver did not end within {BOUND:.0f} s: {driver.close()}")

    def _wake(self) -> None:
        """Let the frozen driver go on: it must end, say why in a line, and write nothing."""
        if self.frozen is None:
            return
        driver, self.frozen = self.frozen, None
        before = self._stored()
        os.kill(driver.process, signal.SIGCONT)
        code, printed = self._outcome_of(driver)
        if code != 1 or not re.fullmatch(_TAKEN, printed.strip()):
            raise self._broken(f"a driver that was replaced ended with {code}: {printed}")
        if self._stored() != before:
            raise self._broken("a driver that was replaced wrote to the store")

    def _start_read_only(self, driver: Driver, queue: list[Fault]) -> None:
        """A driver without the right to write the store, which has it again when it has ended."""
        fault = queue.pop(0)
        file = Path(make_url(self.job.url).database or "")
        self.struck.append(fault)
        self.tally.row(fault.kind).faults += 1
        self.recovering.append((fault, time.monotonic()))
        modes = {one: one.stat().st_mode for one in (file, file.parent) if one.exists()}
        for one in modes:
            one.chmod(0o555 if one.is_dir() else 0o444)
        driver.faults, driver.privileged = [], False
        try:
            code, printed = self._follow(driver.start(), [])
        finally:
            for one, mode in modes.items():
                one.chmod(mode)
        if code != 2 or not re.fullmatch(_UNUSABLE, printed.strip()):
            raise self._broken(f"a driver on a read-only store ended with {code}: {printed}")
        self._look(driver)

    def _ended_as(self, fault: Fault | None, code: int, printed: str) -> None:
        """A killed driver says nothing; one that is stopped says how to go on, once."""
        if fault is not None and fault.kind == KILLED and code == -signal.SIGKILL:
            self._only(printed, _WAITS)
        elif fault is not None and fault.kind == TERMINATED and code == 128 + signal.SIGTERM:
            self._only(printed, f"{_WAITS}|{_INTERRUPTED}")
            if len(re.findall(_INTERRUPTED, printed)) != 1:
                raise self._broken(f"a driver did not say once how to go on: {printed!r}")
        else:
            raise self._broken(f"a driver ended with {code}: {printed}")

    def _only(self, printed: str, lines: str) -> None:
        for line in printed.splitlines():
            if not re.fullmatch(lines, line):
                raise self._broken(f"a driver printed {printed}")

    # The store

    def _stored(self) -> list[TrialRow]:
        if self.store is None:
            self.store = Store(self.job.url)
        with self.store as store:  # closed, since the next driver is a fork of this process
            search = store.find_search(self.job.name)
            return store.trials(search.id) if search else []

    def _look(self, driver: Driver) -> None:
        """Compare the store with what it held, and with what the search had heard of."""
        rows = self._stored()
        now = {row.number: told(row) for row in rows}
        for row in kept(self.rows):
            if now.get(row.number) != told(row):
                self._lost(f"trial {row.number} was {told(row)} and is {now.get(row.number)}")
        for line in self.heard:
            if line["what"] == "told":
                known = now.get(line["number"])
                if known is None or known[-1] != _told_as(Outcome.from_json(line["outcome"])):
                    self._lost(f"trial {line['number']} was told {line['outcome']}, is {known}")
        places = sorted(row.tell_order for row in rows if row.tell_order is not None)
        if places != list(range(len(places))):
            raise self._broken(f"the order of telling has gaps: {places}")
        # What a resume takes back, and may evaluate again: failures, and what came after them.
        taken_back = {row.number for row in rows if row.tell_order is not None}
        self.allowed += len(taken_back - {row.number for row in kept(rows)})
        self.rows = rows

    def _lost(self, what: str) -> None:
        for fault in self.struck[-1:]:
            self.tally.row(fault.kind).lost += 1
        raise self._broken(what)

    def _recovered(self, when: float) -> None:
        """An outcome was told: the search goes on after the faults that struck since the last."""
        for fault, struck in self.recovering:
            row = self.tally.row(fault.kind)
            row.seconds.append(when - struck)
            row.survived += 1
            row.by_itself += not fault.ends
        self.recovering = []

    def _check_end(self) -> None:
        for fault, _ in self.recovering:  # nothing was left to be told
            row = self.tally.row(fault.kind)
            row.survived += 1
            row.by_itself += not fault.ends
        open_ones = [row.number for row in self.rows if row.tell_order is None]
        if open_ones:
            raise self._broken(f"the search is done, and trials {open_ones} have no outcome")
        own = sum(row.reused_from is None for row in self.rows)
        repeated = self.evaluated - own
        if not 0 <= repeated <= self.allowed:
            raise self._broken(f"{repeated} evaluations repeated, {self.allowed} allowed")
        ends = Counter(fault.kind for fault in self.struck if fault.ends)
        for kind, many in ends.items():
            self.tally.row(kind).repeated += round(repeated * many / ends.total())
        self.tally.trials += len(self.rows)
        self.tally.searches += 1
        if self.job.workers == 1:
            self._compare()

    def _compare(self) -> None:
        """One worker's search is the unbroken one's, trial by trial."""
        with TemporaryDirectory(prefix="detkds-chaos-") as folder:
            job = replace(self.job, url=f"sqlite:///{folder}/detkds.db")
            unbroken = Search(job, World(job.url), Tally())
            code, printed = unbroken._follow(Driver(job, []).start(), [])
            if code:
                raise self._broken(f"the unbroken search ended with {code}: {printed}")
            expected = unbroken._stored()
        for row, other in zip(self.rows, expected, strict=False):
            if (row.asked_after, *told(row)) != (other.asked_after, *told(other)):
                raise self._broken(f"trial {row.number} is {row}, and unbroken {other}")
        if len(self.rows) != len(expected):
            raise self._broken(f"{len(self.rows)} trials, and unbroken {len(expected)}")

    def _broken(self, what: str) -> Broken:
        struck = "; ".join(map(str, self.struck))
        return Broken(f"{what}\n  search: {self.job}\n  struck: {struck}")


def told(row: TrialRow) -> tuple:
    """A trial's candidate, and its outcome and place if it is told."""
    told = row.outcome if row.tell_order is not None else None
    return row.number, row.stage, row.key, row.tell_order, told and _told_as(told)


def _told_as(outcome: Outcome) -> tuple:
    """What a search knows of an outcome."""
    return outcome.status, outcome.score, outcome.early_score, outcome.reason, outcome.error


def kept(rows: list[TrialRow]) -> list[TrialRow]:
    """The told trials that a resume may not touch: scores, and all that precedes the last failures.

    A resume tries the failures again that a search ends with, and asks anew for what came after.
    """
    told = sorted((row for row in rows if row.tell_order is not None), key=_place)
    scored = [n for n, row in enumerate(told) if row.status in SCORED and row.reused_from is None]
    last = scored[-1] if scored else -1
    ends = (n for n, row in enumerate(told) if n > last and row.status is Status.FAILED)
    return told[: next(ends, len(told))]


def _place(row: TrialRow) -> int:
    return row.tell_order or 0


def run(
    faults: int,
    trials: int,
    world: World,
    seed: int,
    tally: Tally,
    length: int = 40,
    say: Say = lambda line: None,
) -> None:
    """So many faults over about so many trials of searches in one database.

    Raises :class:`Broken` at the first promise that does not hold.
    """
    store = make_url(world.url).get_backend_name()
    queue = plan(faults, trials, store, seed)
    for number in count():
        algorithm, divide = ALGORITHMS[number % len(ALGORITHMS)]
        # Each algorithm has each number of workers in its turn.
        workers = WORKERS[(number + number // len(WORKERS)) % len(WORKERS)]
        job = Job(
            f"chaos-{store}-{number}",
            algorithm,
            divide,
            length,
            workers,
            world.url,
            1000 * seed + number,
        )
        Search(job, world, tally).run(queue)
        say(f"{job.name}: {algorithm}, {workers} workers; {len(queue)} faults are left")
        if not queue:
            return
