"""Ray Tune's searcher in front of a source of candidates, and what it hears of trials that end."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher

from ..space import Candidate, Outcome, Status
from . import retries as limits
from .cluster import alive
from .naming import trial_name
from .retries import Deadline, Fault, Place, Retries, fault_of

#: What a trial's config and its reports hold.
CANDIDATE, PLACE, NAME = "candidate", "place", "name"
NODE, BLIND, OUTCOME = "node", "blind", "outcome"


class Source(Protocol):
    """What gives candidates and takes outcomes: a controller with its store behind it."""

    def ask(self) -> Candidate | None: ...
    def started(self, candidate: Candidate, host: str, device: str) -> None: ...
    def tell(self, candidate: Candidate, outcome: Outcome) -> None: ...
    @property
    def done(self) -> bool: ...


@dataclass
class Live:
    """A candidate at a worker, and what is known of the worker so far.

    ``again``: whether it has been tried before. ``asked``, ``since``: the monotonic times at which
    Tune was given the trial and the worker took it; None: it waits for a worker.
    """

    candidate: Candidate
    place: Place
    again: bool = False
    asked: float = field(default_factory=time.monotonic)
    host: str | None = None
    device: str | None = None
    node: str | None = None
    blind: bool = False
    outcome: Outcome | None = None
    worker: Any = None
    since: float | None = None
    late: bool = False


class AskTell(Searcher):
    """Tune's searcher in front of a source, with at most ``limit()`` candidates at workers.

    Tune pickles its searcher to restore a run; a search resumes from the store instead, and the
    pickle holds no source.
    """

    def __init__(
        self,
        source: Source | None,
        limit: Callable[[], int],
        retries: Retries,
        deadline: Deadline,
        name: str = "search",
        on_look: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self.source: Any = source
        self.limit, self.retries, self.deadline = limit, retries, deadline
        self.name, self.on_look = name, on_look
        self.live: dict[str, Live] = {}
        self.waiting: deque[tuple[Candidate, Place]] = deque()
        self.error: Exception | None = None
        self._looked: float | None = None
        self._busy = self._room = 0.0

    def __reduce__(self) -> tuple:
        return AskTell, (None, None, None, None)

    def suggest(self, trial_id: str) -> dict | str | None:
        if len(self.live) >= self.limit() or self._served_first():
            return None
        found = self._safely(self._next)
        if found is None:
            finished = self.error is not None or self.source.done
            return Searcher.FINISHED if finished else None
        candidate, place, again = found
        self.live[trial_id] = Live(candidate, place, again)
        document = candidate.distiller.to_dict()
        return {
            CANDIDATE: (candidate.number, candidate.stage, document, candidate.early_bar),
            PLACE: (sorted(place.avoided), place.alone and place.alone.value, again),
            NAME: trial_name(self.name, candidate),
        }

    def _served_first(self) -> bool:
        """Whether a candidate that is tried again still waits for its worker.

        Tune gives a worker that is free to the next candidate of the same request; one with a
        request of its own would wait until there is no next candidate.
        """
        return any(one.again and one.since is None for one in self.live.values())

    def _next(self) -> tuple[Candidate, Place, bool] | None:
        if self.waiting and not self.source.done:
            return *self.waiting.popleft(), True
        candidate = self.source.ask()
        return None if candidate is None else (candidate, Place(self.retries.avoided), False)

    def taken(self, trial_id: str, worker: Any) -> None:
        """A worker takes the trial: its deadline begins."""
        live = self.live[trial_id]
        live.worker, live.since = worker, time.monotonic()

    def look(self) -> None:
        """Count the time since the last look: of workers with a trial, and of all workers."""
        now = time.monotonic()
        passed = now - (now if self._looked is None else self._looked)
        self._looked = now
        places = self.limit()
        working = sum(one.since is not None for one in self.live.values())
        self._busy += passed * min(working, places)
        self._room += passed * places
        self._safely(self.on_look)

    @property
    def in_use(self) -> float:
        """The share of the workers' time in which they had a trial."""
        return self._busy / self._room if self._room else 0.0

    def is_stuck(self) -> bool:
        """Whether a candidate waits for other nodes than those that are left."""
        last = time.monotonic() - limits.PATIENCE_SECONDS
        return any(
            one.since is None and one.asked <= last and self.retries.nowhere(one.place)
            for one in self.live.values()
        )

    def begins_again(self) -> bool:
        """Whether Tune has ended since a candidate was stuck; all that was live is tried again.

        Tune can't give a trial another request.
        """
        if self.error is not None or not self.live:
            return False
        self.waiting.extend((one.candidate, Place()) for one in self.live.values())
        self.live.clear()
        return True

    def end_late_trials(self) -> None:
        """Kill the workers of trials that take too long; Tune then says that they died."""
        most = self.deadline.seconds
        if most is None:
            return
        for live in self.live.values():
            if live.since is not None and not live.late and time.monotonic() - live.since > most:
                live.late = True
                ray.kill(live.worker)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        live = self.live[trial_id]
        if OUTCOME in result:
            live.outcome = Outcome.from_json(result[OUTCOME])
            return
        live.host, live.device, live.node = result["host"], result["device"], result[NODE]
        live.blind = result[BLIND]
        if not live.blind:
            self._safely(self.source.started, live.candidate, live.host, live.device)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Tell the outcome. After an error, :meth:`ended` does so, which knows the cause."""
        if not error:
            outcome = Outcome.from_json((result or {})[OUTCOME])
            self._tell(self.live.pop(trial_id), outcome)

    def ended(self, trial_id: str, error: str) -> None:
        """The worker is gone: tell the outcome that it reported, or try the candidate again."""
        live = self.live.pop(trial_id)
        if live.outcome is not None and live.outcome.status is not Status.FAILED:
            self._tell(live, live.outcome)
            return
        if live.blind and live.node is not None:
            self.retries.put_aside(live.node, "it does not see the work folder")
        fault = _fault(live, error)
        tries = self.retries.tries(live.candidate.number) + 1
        place = self.retries.again(live.candidate.number, live.node, fault)
        if place is not None:
            self.waiting.append((live.candidate, place))
            return
        outcome = live.outcome or Outcome.failed(
            self._reason(live, fault, tries, error), live.host, live.device
        )
        self._safely(self.source.tell, live.candidate, outcome)

    def _tell(self, live: Live, outcome: Outcome) -> None:
        self.retries.completed(live.candidate.number, live.node)
        if outcome.completed:
            self.deadline.took(outcome.seconds)
        self._safely(self.source.tell, live.candidate, outcome)

    def _reason(self, live: Live, fault: Fault, tries: int, error: str) -> str:
        where = f"on {live.host}" if live.host else "before it started"
        if fault is Fault.LATE:
            return f"it took longer than {self.deadline.reason}, {tries} times, the last {where}"
        last = error.strip().splitlines()[-1].strip()
        return f"its worker died {tries} times, the last {where}: {last}"

    def _safely(self, function: Callable, *arguments: Any) -> Any:
        """Keep an exception to end the run with; Tune would log, wrap or repeat it."""
        try:
            return function(*arguments)
        except Exception as error:
            self.error = self.error or error
            return None

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the store holds every trial, and a search resumes from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, like :meth:`save`."""


def _fault(live: Live, error: str) -> Fault:
    """Why a try failed. ``error``: Ray's reason why the worker is gone."""
    if live.blind:
        return Fault.LOST
    if live.late:
        return Fault.LATE
    if live.outcome is not None:
        last = (live.outcome.error or "").strip().rpartition("\n")[2]
        return fault_of(last, Fault.RAISED)
    there = live.node is None or live.node in {node["NodeID"] for node in alive()}
    if not there or "its node has died" in error:
        return Fault.LOST
    return fault_of(error, Fault.DIED)


class Ended(tune.Callback):
    """Passes on when a worker takes a trial, and why a worker is gone: callbacks alone know."""

    def __init__(self, searcher: AskTell) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        worker = trial.temporary_state.ray_actor
        _name_what_it_does(worker, trial.config[NAME])
        self.searcher.taken(trial.trial_id, worker)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.searcher.ended(trial.trial_id, Path(trial.error_file).read_text("utf-8"))


def _name_what_it_does(worker: Any, name: str) -> None:
    """From now on, Ray's dashboard shows by this name what Tune lets the worker do.

    Tune looks up ``train`` at the worker's handle. The handle must not hold itself: Ray ends a
    worker without a handle.
    """
    there = weakref.ref(worker)

    def remote(*args: Any, **more: Any) -> Any:
        method = there().__getattr__("train")  # type: ignore[union-attr]
        return method.options(name=name).remote(*args, **more)

    worker.train = SimpleNamespace(remote=remote)


class Watch(tune.Stopper):
    """Stops all trials when the source has raised or one is stuck, and one that takes too long."""

    def __init__(self, searcher: AskTell) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        self.searcher.look()
        self.searcher.end_late_trials()
        return self.searcher.error is not None or self.searcher.is_stuck()
