"""Trials on Ray Tune's workers, which stay from trial to trial, for a source of candidates."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.search import Searcher

from ..settings import Resources, Split, Task, TrialSchedule
from ..space import Candidate, Distiller, Outcome, Status
from .cluster import per_trial, room
from .runner import host_and_device
from .trial import TrialContext, evaluate

#: Tune keeps actors and schedules trials; its loggers, its progress and its Ctrl-C are off.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # `suggest` below limits the number of trials at a time.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
_OUTCOME = "outcome"
#: How often a candidate goes to another worker after its worker has died.
RETRIES = 2


class Source(Protocol):
    """What gives candidates and takes outcomes: a controller with its store behind it."""

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
    filtered: bool = True,
) -> None:
    """Score the candidates of ``source`` until it is done, on as many workers as fit.

    A worker builds its :class:`TrialContext` once and keeps it from trial to trial. ``filtered``:
    whether its filter tries a candidate before a student is trained.
    """
    make_context = partial(
        TrialContext.build, task, schedule, proxy, seed=seed, warmup=warmup, filtered=filtered
    )
    run_actors(source, per_trial(resources), resources.workers, make_context, evaluate)


def run_actors(
    source: Source,
    per_worker: dict[str, float],
    workers: int | None,
    make_context: Callable[[], Any],
    evaluator: Callable[[Any, Candidate], Outcome],
    *,
    reuse: bool = True,
) -> None:
    """Run ``evaluator`` for every candidate, on workers that call ``make_context`` once each.

    At most ``workers`` candidates are at workers at a time, and never more than the cluster has
    room for. A candidate whose worker dies goes to another worker, :data:`RETRIES` times, before it
    fails. A worker on which a trial failed is not used again. An exception of ``source`` ends the
    run and is raised here. ``reuse=False`` starts an actor for every trial, for the benchmark.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it lists trials that did not end
    searcher = _AskTell(source, lambda: min(workers or sys.maxsize, room(per_worker)))
    trainable = tune.with_parameters(TrialActor, make_context=make_context, evaluator=evaluator)
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
    """A worker. Tune resets it from trial to trial; its context stays."""

    def setup(self, config: dict, make_context: Any = None, evaluator: Any = None) -> None:
        self.make_context, self.evaluator = make_context, evaluator
        self.context: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        number, stage, document, early_bar = new_config["candidate"]
        self.candidate = Candidate(number, stage, Distiller.from_dict(document), early_bar)
        self.steps = self._steps()
        return True

    def step(self) -> dict[str, Any]:
        return next(self.steps)

    def _steps(self) -> Iterator[dict[str, Any]]:
        """Report where the trial runs, then its outcome; after a failure, end this worker.

        The cause of a failure (a lost device, a full disk) may lie in the worker and not in the
        candidate. Tune gives no other trial to an actor that has raised.
        """
        where = host_and_device()
        yield {**where}
        try:
            if self.context is None:
                self.context = self.make_context()
            outcome = self.evaluator(self.context, self.candidate)
        except Exception:
            outcome = Outcome.failed(traceback.format_exc(), **where)
        failed = outcome.status is Status.FAILED
        score = float("nan") if outcome.score is None else outcome.score
        yield {"score": score, _OUTCOME: outcome.to_json(), "done": not failed}
        raise RuntimeError("a worker on which a trial failed is not used again")


@dataclass
class _Live:
    """A candidate at a worker, and what the worker has reported so far."""

    candidate: Candidate
    host: str | None = None
    device: str | None = None
    outcome: Outcome | None = None


class _AskTell(Searcher):
    """Tune's searcher in front of a source, with at most ``limit()`` candidates at workers.

    Tune pickles its searcher to restore a run; a search resumes from the store instead, and the
    pickle holds no source.
    """

    def __init__(self, source: Source | None, limit: Callable[[], int]) -> None:
        super().__init__(metric="score", mode="max")
        self.source: Any = source
        self.limit = limit
        self.live: dict[str, _Live] = {}
        self.retries: deque[Candidate] = deque()
        self.deaths: Counter[int] = Counter()
        self.error: Exception | None = None

    def __reduce__(self) -> tuple:
        return _AskTell, (None, None)

    def suggest(self, trial_id: str) -> dict | str | None:
        if len(self.live) >= self.limit():
            return None
        candidate = self._safely(self._next)
        if candidate is None:
            finished = self.error is not None or self.source.done
            return Searcher.FINISHED if finished else None
        self.live[trial_id] = _Live(candidate)
        document = candidate.distiller.to_dict()
        return {"candidate": (candidate.number, candidate.stage, document, candidate.early_bar)}

    def _next(self) -> Candidate | None:
        if self.retries and not self.source.done:
            return self.retries.popleft()
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
        """Tell the outcome. After an error, :meth:`ended` does so, which knows the cause."""
        if not error:
            outcome = Outcome.from_json((result or {})[_OUTCOME])
            self._safely(self.source.tell, self.live.pop(trial_id).candidate, outcome)

    def ended(self, trial_id: str, error: str) -> None:
        """The worker is gone: tell the outcome that it reported, or retry the candidate."""
        live = self.live.pop(trial_id)
        outcome = live.outcome or self._died(live, error)
        if outcome is None:
            self.retries.append(live.candidate)
        else:
            self._safely(self.source.tell, live.candidate, outcome)

    def _died(self, live: _Live, error: str) -> Outcome | None:
        """The outcome of a candidate whose worker died; None if another worker tries it."""
        number = live.candidate.number
        self.deaths[number] += 1
        if self.deaths[number] <= RETRIES:
            return None
        times = f"its worker died {self.deaths[number]} times"
        where = f"on {live.host}" if live.host else "before it started"
        return Outcome.failed(f"{times}, the last {where}: {error}", live.host, live.device)

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


class _Ended(tune.Callback):
    """Passes on why a worker is gone; Tune gives the reason to callbacks only."""

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
