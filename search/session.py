"""A search in progress: the controller, the filter and the store behind one ask and tell."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from ..db import Store
from ..space import Candidate, Distiller, Outcome, Status
from .controller import Controller, Event, replay

#: So many failed trials in a row end a search.
MAX_FAILURES = 5


@dataclass
class Session:
    """What the engine sees of a search; every ask and every outcome is in the store at once.

    A candidate that the filter rejects, or that was scored before under the same conditions, is
    answered here and never reaches a worker. ``changed`` is called after every change.
    """

    controller: Controller
    store: Store
    search_id: int
    conditions: str
    seed: int
    reject: Callable[[Distiller], str | None]
    changed: Callable[[], None] = lambda: None
    told: int = 0
    open: list[Candidate] = field(default_factory=list)
    trial_ids: dict[int, int] = field(default_factory=dict)
    failures: int = 0
    stopped: bool = False
    error: str | None = None

    def resume(self) -> None:
        """Bring a fresh controller to where the stored search stopped."""
        self.store.requeue(self.search_id)
        rows = self.store.events(self.search_id)
        events = [
            Event(row.candidate, row.asked_after, row.told, row.outcome or Outcome(row.status))
            for row in rows
        ]
        self.open = replay(self.controller, events)
        self.told = sum(event.told is not None for event in events)
        self.trial_ids = {row.number: row.id for row in rows if row.told is None}

    def ask(self) -> Candidate | None:
        while not self.stopped and self.failures < MAX_FAILURES:
            candidate = self._next()
            if candidate is None:
                return None
            reason = self.reject(candidate.distiller)
            if reason is not None:
                self.tell(candidate, Outcome.rejected(reason))
                continue
            known = self.store.scored(self.conditions, candidate.distiller.key)
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
                self.search_id, candidate, self.told, self.conditions, self.seed
            )
        return candidate

    def started(self, candidate: Candidate) -> None:
        """A worker has taken the candidate; its outcome will name the worker's host and device."""
        self.store.start_trial(self.trial_ids[candidate.number], socket.gethostname(), "")
        self.changed()

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        self._tell(candidate, outcome, reused_from=None)

    def _tell(self, candidate: Candidate, outcome: Outcome, reused_from: int | None) -> None:
        """The store first: what it does not hold has not happened."""
        trial_id = self.trial_ids.pop(candidate.number)
        self.store.tell_trial(trial_id, outcome, self.told, reused_from)
        self.controller.tell(candidate, outcome)
        self.told += 1
        self.failures = self.failures + 1 if outcome.status is Status.FAILED else 0
        self.error = outcome.error
        self.changed()

    @property
    def done(self) -> bool:
        """Nothing is left, or the search was ``stopped``, or :data:`MAX_FAILURES` trials in a row
        failed: then no candidate is at fault, and ``error`` holds what the last one said."""
        ended = self.stopped or self.failures >= MAX_FAILURES
        return ended or (not self.open and self.controller.done)
