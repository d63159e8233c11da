"""Full trainings and single jobs on Ray, which go to another worker when theirs is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

from ..settings import Resources
from ..space import Outcome, SearchFailed, Status
from ..space.writing import find_json, replace_file
from . import retries as limits
from .cluster import alive, marker, names, per_trial
from .places import alone_on, none_of
from .retries import Deadline, Fault, Place, Retries, fault_of
from .together import train_together
from .training import Training, is_held, train

#: Ray Train has an actor ask Ray's dashboard whether the training's controller is alive, and ends
#: the training if the dashboard knows no such actor. Where our Ray has no dashboard, another Ray's
#: on the machine may answer. So none is asked: Ray itself frees what a dead controller held.
_UNASKED = {"env_vars": {"RAY_API_SERVER_ADDRESS": "none"}}
#: Which worker trains in a folder, for the driver: the number of the try, and the node.
_WORKER = "worker.json"
#: A training that takes no step is taken for hung after a tenth of what its kind takes, and after
#: an hour at least: scoring takes no steps.
_SHARE, _SILENT_SECONDS = 0.1, 3600.0


def silence(given: float | None, known: Sequence[float]) -> Deadline:
    """How long a training may take no step. ``known``: the seconds of trainings of its kind."""
    return Deadline(given, known, multiple=_SHARE, least=_SILENT_SECONDS, unknown=_SILENT_SECONDS)


def run_trainings(
    trainings: list[Training],
    resources: Resources,
    *,
    on_progress: Callable[[list[tuple[int, int]]], None] = lambda progress: None,
    on_done: Callable[[Training, Outcome], None] = lambda training, outcome: None,
    trainer: Callable[[Training], Outcome] = train,
    folder: Path | None = None,
    deadlines: Sequence[Deadline] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> list[Outcome]:
    """Run trainings, as many side by side as fit, and return their outcomes in the same order.

    A training of one process is a Ray task; one of several is run by Ray Train. A training whose
    worker is lost goes on where it was, however often, if it took a step; else
    :class:`~detkds.workers.retries.Retries` says how often. One that takes no step for longer than
    its deadline loses its worker. No training runs on a node that does not see ``folder``.

    ``on_progress`` is called with (iterations done, all iterations) of each training, twice a
    second; ``on_done`` with each training that ends; ``say`` with one line for each node that is
    put aside.
    """
    each = per_trial(resources)
    retries = Retries(partial(names, each), say)
    deadlines = deadlines or [silence(resources.training_deadline, [])] * len(trainings)
    with marker(folder or Path(trainings[0].folder)) as seen:
        running = [
            _Running(training, each, trainer, retries, deadline, seen)
            for training, deadline in zip(trainings, deadlines, strict=True)
        ]
        while any(one.outcome is None for one in running):
            ray.wait([one.future for one in running if one.outcome is None], timeout=0.5)
            for one in running:
                if one.outcome is None and one.has_ended():
                    on_done(one.training, one.outcome)  # type: ignore[arg-type]
            on_progress([training.progress() for training in trainings])
    return [one.outcome for one in running if one.outcome is not None]


class _Running:
    """A training at a worker, and the next worker if that one is lost."""

    def __init__(
        self,
        training: Training,
        each: Mapping[str, float],
        trainer: Callable[[Training], Outcome],
        retries: Retries,
        deadline: Deadline,
        seen: str,
    ) -> None:
        self.training, self.each, self.trainer = training, each, trainer
        self.retries, self.deadline, self.seen = retries, deadline, seen
        self.outcome: Outcome | None = None
        self.steps = training.progress()[0]
        self.tries = 0
        self._submit(Place(retries.avoided))

    def _submit(self, place: Place) -> None:
        self.place, self.asked = place, time.monotonic()
        self.tries += 1
        self.late = False
        self.progress = self.training.progress()
        self.since: float | None = None
        own, function = alone_on(self.each, place.avoided, place.alone), self.trainer
        more: dict[str, Any] = {}
        if self.training.schedule.processes > 1:
            # Ray Train starts the processes, which have the resources.
            function = partial(train_together, each=dict(self.each))
            own, more = {"cpu": 0, "gpu": 0}, {"runtime_env": _UNASKED}
        if place.avoided:
            more["label_selector"] = none_of(place.avoided)
        task = _task(_try, **own, max_retries=0, **more)
        self.future = task.remote(function, self.training, self.tries, self.seen)

    def has_ended(self) -> bool:
        """Whether the training has its outcome; if its worker is lost, it goes to another."""
        if not ray.wait([self.future], timeout=0)[0]:
            self._end_if_late()
            if self._is_stuck():
                ray.cancel(self.future, force=True)
                self._submit(Place())
            return False
        error, outcome = "", None
        node = self._worker()
        try:
            node, outcome = ray.get(self.future)
        except ray.exceptions.RayError as lost:
            error = _reason(lost)
        if outcome is not None and outcome.status is not Status.FAILED:
            self.retries.completed(self.training.folder, node)
            self.deadline.took(outcome.seconds)
            return self._end(outcome)
        place = self._again(outcome, error, node)
        if place is not None:
            self._submit(place)
            return False
        return self._end(outcome or Outcome.failed(self._why(error)))

    def _end(self, outcome: Outcome) -> bool:
        (Path(self.training.folder) / _WORKER).unlink(missing_ok=True)
        self.outcome = outcome
        return True

    def _end_if_late(self) -> None:
        """Kill the worker if it has taken no step for too long. A training that waits has none."""
        progress = self.training.progress()
        if progress != self.progress or (self.since is None and self._worker() is not None):
            self.progress, self.since = progress, time.monotonic()
        most = self.deadline.seconds
        if most and self.since and time.monotonic() - self.since > most and not self.late:
            self.late = True
            ray.cancel(self.future, force=True)

    def _is_stuck(self) -> bool:
        """Whether the training waits for other nodes than those that are left."""
        waited = time.monotonic() - self.asked > limits.PATIENCE_SECONDS
        return waited and self._worker() is None and self.retries.nowhere(self.place)

    def _worker(self) -> str | None:
        """The node of the training's worker; None: no worker has taken this try yet."""
        try_and_node = find_json(Path(self.training.folder) / _WORKER) or (0, None)
        return try_and_node[1] if try_and_node[0] == self.tries else None

    def _again(self, outcome: Outcome | None, error: str, node: str | None) -> Place | None:
        steps = self.training.progress()[0]
        advanced, self.steps = steps > self.steps, max(steps, self.steps)
        if self.late and outcome is None:
            fault = Fault.LATE
        elif outcome is not None:
            last = (outcome.error or "").strip().rpartition("\n")[2]
            fault = fault_of(last, Fault.RAISED)
        elif not error:
            fault = Fault.LOST
            self.retries.put_aside(node or "", "it does not see the work folder")
        else:
            gone = node is not None and node not in {one["NodeID"] for one in alive()}
            fault = Fault.LOST if advanced or gone else fault_of(error, Fault.DIED)
        return self.retries.again(self.training.folder, node, fault)

    def _why(self, error: str) -> str:
        if not self.late:
            return f"its worker died {self.tries} times: {error}"
        held = is_held(self.training)
        lock = f"; another process holds {held}" if held else ""
        return f"it took no step for {self.deadline.reason}, {self.tries} times{lock}"


def _try(
    trainer: Callable[[Training], Outcome], training: Training, number: int, seen: str
) -> tuple[str, Outcome | None]:
    """Train here. Returns this node, and None where the work folder can't be seen."""
    node = ray.get_runtime_context().get_node_id()
    if not os.path.exists(seen):
        return node, None
    folder = Path(training.folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / _WORKER, json.dumps([number, node]), one_writer=True, durable=False)
    return node, trainer(training)


def run_job(resources: Resources, job: Callable[[], Any]) -> Any:
    """Run one function on one worker; returns or raises what the function does.

    Raises :class:`SearchFailed` if the worker dies every time, on nodes that go on.
    """
    each = per_trial(resources)
    retries, place = Retries(partial(names, each)), Place()
    while True:
        own = alone_on(each, place.avoided, place.alone)
        try:
            return ray.get(_task(_call, **own, max_retries=0).remote(job))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            gone = isinstance(error, ray.exceptions.NodeDiedError)
            fault = Fault.LOST if gone else fault_of(str(error), Fault.DIED)
            tries = retries.tries(_call) + 1
            found = retries.again(_call, None, fault)
            if found is None:
                reason = f"a job's worker died {tries} times: {_reason(error)}"
                raise SearchFailed(reason) from None
            place = found


def _task(function: Callable, cpu: float, gpu: float, **more: Any) -> Any:
    return ray.remote(function).options(  # type: ignore[attr-defined]
        num_cpus=cpu, num_gpus=gpu, **more
    )


def _call(job: Callable[[], Any]) -> Any:
    return job()


def _reason(error: Exception) -> str:
    """The first line of Ray's message; the others say where its log files lie."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
