"""Trials spread by Ray Tune: ask and tell on one side, workers that are kept on the other."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mmengine.device import get_device
from ray import tune
from ray.tune.search import Searcher

from ..settings import Resources, Split, Task, TrialSchedule
from ..space import Candidate, Distiller, Outcome, Status
from .cluster import per_trial, room
from .trial import TrialContext, evaluate

#: Tune is used for its actors and its scheduling; its own loggers, progress and Ctrl-C are not.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # How many trials there are at a time is decided here, in `suggest`.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_OUTCOME = "outcome"
#: How often a candidate is given to another worker after its own has died.
RETRIES = 2


class Source(Protocol):
    """Where candidates come from and outcomes go to: a controller with its store behind it."""

    def ask(self) -> Candidate | None: ...
    def started(self, candidate: Candidate, host: str, device: str) -> None: ...
    def tell(self, candidate: Candidate, outcome: Outcome) -> None: ...
    @property
    def done(self) -> bool: ...


def run(
    source: Source,
    task: Task,
    schedule: TrialSchedule,
    proxy: tuple[Split, Split],
    resources: Resources,
    *,
    seed: int,
    warmup: str | None = None,
) -> None:
    """Score what ``source`` asks for until it is done, on as many workers as fit.

    A worker builds its :class:`TrialContext` once and keeps it from trial to trial.
    """
    context = partial(TrialContext.build, task, schedule, proxy, seed=seed, warmup=warmup)
    run_actors(source, per_trial(resources), resources.workers, context, evaluate)


def run_actors(
    source: Source,
    per_worker: dict[str, float],
    workers: int | None,
    context: Callable[[], Any],
    evaluator: Callable[[Any, Candidate], Outcome],
    *,
    reuse: bool = True,
) -> None:
    """The engine itself: each worker calls ``context`` once, ``evaluator`` for every candidate.

    At most ``workers`` at a time, and never more than the cluster has room for then. A candidate
    whose worker dies goes to another one, :data:`RETRIES` times, before it is told as failed; a
    worker on which something failed is not used again. What ``source`` raises ends the run and is
    raised here. ``reuse=False``, a fresh actor for every trial, is there for the benchmark.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it lists trials that did not end
    searcher = _AskTell(source, lambda: min(workers or sys.maxsize, room(per_worker)))
    trainable = tune.with_parameters(TrialActor, context=context, evaluator=evaluator)
    with tempfile.TemporaryDirectory(prefix="detkds-tune-") as folder:
        tune.Tuner(
            tune.with_resources(trainable, per_worker),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=reuse,
                metric="score",
                mode="max",
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="search",
                verbose=0,
                callbacks=[_Ended(searcher)],
                stop=_Broken(searcher),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    if searcher.error is not None:
        raise searcher.error


class TrialActor(tune.Trainable):
    """A worker: it is reset from trial to trial and keeps its context."""

    def setup(self, config: dict, context: Any = None, evaluator: Any = None) -> None:
        self.content, self.evaluator = context, evaluator
        self.context: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        number, stage, document = new_config["candidate"]
        self.candidate = Candidate(number, stage, Distiller.from_dict(document))
        self.steps = self._steps()
        return True

    def step(self) -> dict[str, Any]:
        return next(self.steps)

    def _steps(self) -> Iterator[dict[str, Any]]:
        """Where the trial runs; what came out; and after a failure, the end of this worker.

        Whatever failed (a device that is lost, a full disk) may be of the worker and not of the
        candidate: Tune gives no other trial to an actor that has raised.
        """
        where = {"host": socket.gethostname(), "device": get_device()}
        yield where
        try:
            if self.context is None:
                self.context = self.content()
            outcome = self.evaluator(self.context, self.candidate)
        except Exception:
            outcome = Outcome.failed(traceback.format_exc(), **where)
        failed = outcome.status is Status.FAILED
        score = float("nan") if outcome.score is None else outcome.score
        yield {"score": score, _OUTCOME: outcome.to_json(), "done": not failed}
        raise RuntimeError("a worker on which a trial failed is not used again")


@dataclass
class _Live:
    """A candidate at a worker, and what the worker has said so far."""

    candidate: Candidate
    host: str | None = None
    device: str | None = None
    outcome: Outcome | None = None


class _AskTell(Searcher):
    """Tune's side of ask and tell, with at most ``most()`` candidates at workers.

    Tune pickles its searcher for a restore of its own; ours resumes from the store, so the pickle
    holds no source.
    """

    def __init__(self, source: Source | None, most: Callable[[], int]) -> None:
        super().__init__(metric="score", mode="max")
        self.source: Any = source
        self.most = most
        self.live: dict[str, _Live] = {}
        self.again: deque[Candidate] = deque()
        self.deaths: Counter[int] = Counter()
        self.error: Exception | None = None

    def __reduce__(self) -> tuple:
        return _AskTell, (None, None)

    def suggest(self, trial_id: str) -> dict | str | None:
        if len(self.live) >= self.most():
            return None
        candidate = self._safely(self._next)
        if candidate is None:
            finished = self.error is not None or self.source.done
            return Searcher.FINISHED if finished else None
        self.live[trial_id] = _Live(candidate)
        document = candidate.distiller.to_dict()
        return {"candidate": (candidate.number, candidate.stage, document)}

    def _next(self) -> Candidate | None:
        if self.again and not self.source.done:
            return self.again.popleft()
        return self.source.ask()

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        live = self.live[trial_id]
        if _OUTCOME in result:
            live.outcome = Outcome.from_json(result[_OUTCOME])
        else:
            live.host, live.device = result["host"], result["device"]
            self._safely(self.source.started, live.candidate, live.host, live.device)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """After an error Tune calls :meth:`ended` too, which learns more of it."""
        if not error:
            outcome = Outcome.from_json((result or {})[_OUTCOME])
            self._safely(self.source.tell, self.live.pop(trial_id).candidate, outcome)

    def ended(self, trial_id: str, error: str) -> None:
        """The worker is gone: after the outcome that it gave, or for another to try again."""
        live = self.live.pop(trial_id)
        outcome = live.outcome or self._died(live, error)
        if outcome is None:
            self.again.append(live.candidate)
        else:
            self._safely(self.source.tell, live.candidate, outcome)

    def _died(self, live: _Live, error: str) -> Outcome | None:
        """The outcome of a candidate whose worker died; None if it is to be tried again."""
        number = live.candidate.number
        self.deaths[number] += 1
        if self.deaths[number] <= RETRIES:
            return None
        times = f"its worker died {self.deaths[number]} times"
        where = f"on {live.host}" if live.host else "before it started"
        return Outcome.failed(f"{times}, the last {where}: {error}", live.host, live.device)

    def _safely(self, function: Callable, *arguments: Any) -> Any:
        """Tune would log, wrap or repeat what a source raises: it ends the run instead."""
        try:
            return function(*arguments)
        except Exception as error:
            self.error = self.error or error
            return None

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers every trial, and a search resumes from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class _Ended(tune.Callback):
    """Tells why a worker is gone, which Tune tells its callbacks only."""

    def __init__(self, searcher: _AskTell) -> None:
        self.searcher = searcher

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        lines = Path(trial.error_file).read_text("utf-8").strip().splitlines()
        self.searcher.ended(trial.trial_id, lines[-1].strip())


class _Broken(tune.Stopper):
    """Stops all trials when the source has raised."""

    def __init__(self, searcher: _AskTell) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.searcher.error is not None
