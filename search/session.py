"""A search in progress: the controller and the store behind one ask and tell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..db import Store, TrialRow
from ..space import Candidate, Outcome, Progress, Status
from .controller import Controller, Event, replay

#: So many failed trials in a row end a search.
MAX_FAILURES = 5


@dataclass
class Running:
    """A trial at a worker. ``since``: the monotonic time at which the worker took it.

    ``progress``: how far its training is, as far as it is known.
    """

    candidate: Candidate
    host: str
    device: str
    since: float = field(default_factory=time.monotonic)
    progress: Progress | None = None

    @property
    def seconds(self) -> float:
        """Since the worker took it."""
        return time.monotonic() - self.since


@dataclass
class Session:
    """What the engine sees of a search; every ask and every outcome is in the store at once.

    The session itself answers a candidate that the store holds a score of under the same
    conditions, or an early score below the candidate's bar; such a candidate never reaches a
    worker. A rejection in the store answers nothing: a worker's filter finds it again in no time.
    ``outcomes`` counts the outcomes so far. ``teacher``: the teacher's AP on the images that score
    trials, in [0, 1], if it is known. The session calls ``changed`` after every change, and
    ``answered`` with every candidate that a worker has answered.

    ``running`` are the trials at workers, by number, and ``workers`` how many there were when the
    last one was taken. ``took`` has the seconds of every trial that a worker has scored, and
    ``lost`` the seconds of all others together; what was reused took none.
    """

    controller: Controller
    store: Store
    search_id: int
    conditions: str
    seed: int
    changed: Callable[[], None] = lambda: None
    outcomes: int = 0
    open: list[Candidate] = field(default_factory=list)
    trial_ids: dict[int, int] = field(default_factory=dict)
    failures: int = 0
    stopped: bool = False
    failure: Outcome | None = None
    teacher: float | None = None
    answered: Callable[[Candidate, Outcome], None] = lambda candidate, outcome: None
    running: dict[int, Running] = field(default_factory=dict)
    workers: int = 1
    took: list[float] = field(default_factory=list)
    lost: float = 0.0

    def resume(self) -> None:
        """Bring a fresh controller to where the stored search stopped.

        Trials that were running are tried again, and so are the failures that ended the search.
        Raises :class:`WrongUse` if the configuration has changed since.
        """
        self.store.requeue(self.search_id)
        self.store.requeue_failures(self.search_id, MAX_FAILURES)
        rows = self.store.events(self.search_id)
        events = [Event(r.candidate, r.asked_after, r.tell_order, _as_told(r)) for r in rows]
        self.open = replay(self.controller, events)
        self.outcomes = sum(event.tell_order is not None for event in events)
        self.trial_ids = {row.number: row.id for row in rows if row.tell_order is None}
        for row in rows:
            if row.reused_from is None and row.outcome is not None:
                self._count_seconds(row.outcome)

    def ask(self) -> Candidate | None:
        """The next candidate for a worker; None: wait for outcomes, or look at ``done``."""
        while not self._ended:
            candidate = self._next()
            if candidate is None:
                return None
            known = self.store.scored(self.conditions, candidate.distiller.key, candidate.early_bar)
            if known is not None and known.outcome is not None:
                self._tell(candidate, known.outcome, reused_from=known.id)
                continue
            self.changed()
            return candidate
        return None

    def _next(self) -> Candidate | None:
        if self.open:
            return self.open.pop(0)
        candidate = self.controller.ask()
        if candidate is not None:
            self.trial_ids[candidate.number] = self.store.add_trial(
                self.search_id, candidate, self.outcomes, self.conditions, self.seed
            )
        return candidate

    def started(self, candidate: Candidate, host: str, device: str) -> None:
        """A worker has taken the candidate."""
        self.store.start_trial(self.trial_ids[candidate.number], host, device)
        self.running[candidate.number] = Running(candidate, host, device)
        self.workers = len(self.running)
        self.changed()

    def progress(self, known: Mapping[int, Progress]) -> None:
        """How far running trials are, by number."""
        for number, running in self.running.items():
            running.progress = known.get(number)
        self.changed()

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        """The outcome from a worker. A search that :data:`MAX_FAILURES` have ended stays ended.

        A score that is NaN or infinite fails the candidate. A rejection does not interrupt a row of
        failures: the filter works where trainings fail.
        """
        outcome = outcome.checked()
        if not self._ended:
            self._count(outcome)
        self.running.pop(candidate.number, None)
        self._count_seconds(outcome)
        self._tell(candidate, outcome, reused_from=None)
        self.answered(candidate, outcome)

    def _count_seconds(self, outcome: Outcome) -> None:
        """Count what a worker's trial took."""
        if outcome.ranked and outcome.seconds:
            self.took.append(outcome.seconds)
        else:
            self.lost += outcome.seconds or 0.0

    def _count(self, outcome: Outcome) -> None:
        """Count a failure, and end the search with the last of :data:`MAX_FAILURES` in a row."""
        if outcome.ranked:
            self.failures = 0
        if outcome.status is Status.FAILED:
            self.failures += 1
            self.failure = outcome if self.failures >= MAX_FAILURES else None

    def _tell(self, candidate: Candidate, outcome: Outcome, reused_from: int | None) -> None:
        """Tell the store first: what the store does not hold has not happened."""
        trial_id = self.trial_ids.pop(candidate.number)
        self.store.tell_trial(trial_id, outcome, self.outcomes, reused_from)
        self.controller.tell(candidate, outcome)
        self.outcomes += 1
        self.changed()

    @property
    def doing(self) -> dict[str, Any]:
        """What other processes are told of the trials that run: plain data."""
        known = {n: running.progress for n, running in self.running.items() if running.progress}
        return {
            "planned": self.controller.planned,
            "workers": self.workers,
            "trials": {str(number): asdict(progress) for number, progress in known.items()},
        }

    @property
    def _ended(self) -> bool:
        return self.stopped or self.failure is not None

    @property
    def done(self) -> bool:
        """Whether the search asks for nothing more.

        Every candidate has its outcome, or the search was ``stopped``, or :data:`MAX_FAILURES`
        trials in a row failed. In the last case the cause lies outside of the candidates, and
        ``failure`` is the last trial's outcome.
        """
        return self._ended or (not self.open and self.controller.done)


def _as_told(row: TrialRow) -> Outcome:
    """A stored outcome as the controller was told it.

    Earlier versions told NaN as a completed score, for which SQLite holds no score. A replay has to
    tell NaN again to get the candidates that were asked for afterwards.
    """
    outcome = row.outcome or Outcome(row.status)
    return replace(outcome, score=math.nan) if outcome.completed and row.score is None else outcome
