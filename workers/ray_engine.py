"""Trials and trainings spread by Ray: Tune for the search, tasks for the trainings."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.search import Searcher

from ..space import Candidate, Distiller, Outcome, WrongUse
from .settings import Resources, Split, Task, TrialSchedule
from .training import Training, train
from .trial import TrialContext, evaluate

#: Tune is used for its actors and its scheduling; its own loggers, progress and Ctrl-C are not.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_WRAPPED = "outcome"
#: How long a cluster's head may take to answer.
CONNECT_SECONDS = 10


class Source(Protocol):
    """Where candidates come from and outcomes go to: a controller with its store behind it."""

    def ask(self) -> Candidate | None: ...
    def started(self, candidate: Candidate) -> None: ...
    def tell(self, candidate: Candidate, outcome: Outcome) -> None: ...
    @property
    def done(self) -> bool: ...


@contextmanager
def cluster(resources: Resources) -> Iterator[str]:
    """Ray started here or joined; yields the dashboard's address ("" without one).

    Raises :class:`WrongUse` when the cluster can't be reached or has less than a trial asks for.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if resources.address is None:
        options["include_dashboard"] = resources.dashboard
    try:
        context = ray.init(address=resources.address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WrongUse(f"resources.address: can't join '{resources.address}': {error}") from None
    try:
        _check(resources, ray.cluster_resources(), "the cluster")
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def check_machine(resources: Resources) -> None:
    """Raise :class:`WrongUse` if a trial asks for more than this machine has.

    A cluster to be joined by ``address`` is asked when it is joined. Ray starts its actors through
    a shell without quoting: under a path with a space it would wait for them for ever.
    """
    if " " in sys.executable:
        raise WrongUse(
            f"{sys.executable}: Ray can't start workers by a Python whose path holds a space; "
            "install detkds in another folder"
        )
    if resources.address is not None:
        _check_reachable(resources.address)
    else:
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        _check(resources, here, "this machine")


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes. ``auto`` and addresses of other kinds are left to it."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise WrongUse(
            f"resources.address: nothing answers at {address} ({error.strerror or error}); give "
            "the head node's host:port as `ray start --head` prints it, or auto"
        ) from None


def _check(resources: Resources, there: Mapping[str, float], where: str) -> None:
    for name, asked in (("CPU", resources.cpus), ("GPU", resources.gpus or 0.0)):
        if asked > there.get(name, 0.0):
            raise WrongUse(
                f"resources.{name.lower()}s: a trial asks for {asked:g} {name}s, {where} has "
                f"{there.get(name, 0.0):g}: ask for no more, or join a larger cluster by "
                "resources.address"
            )


def per_trial(resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of one trial; a GPU is used without being asked for where there is one."""
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    return {"cpu": resources.cpus, "gpu": gpus}


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

    A worker builds its :class:`TrialContext` once and keeps it from trial to trial. A worker that
    dies fails its trial, no more.
    """
    context = partial(TrialContext.build, task, schedule, proxy, seed=seed, warmup=warmup)
    each = per_trial(resources)
    run_actors(source, each, resources.workers or _fit(each), context, evaluate)


def _fit(each: dict[str, float]) -> int:
    """How many workers the cluster has room for: more asks than that would be asks too early."""
    there = ray.cluster_resources()
    amounts = {"CPU": each["cpu"], "GPU": each["gpu"]}
    return max(1, min(int(there.get(name, 0) // n) for name, n in amounts.items() if n))


def run_actors(
    source: Source,
    per_worker: dict[str, float],
    workers: int,
    context: Callable[[], Any],
    evaluator: Callable[[Any, Candidate], Outcome],
    *,
    reuse: bool = True,
) -> None:
    """The engine itself: each worker calls ``context`` once, ``evaluator`` for every candidate.

    ``reuse=False``, a fresh actor for every trial, is there for the benchmark to compare with.
    """
    searcher = _AskTell(source)
    trainable = tune.with_parameters(TrialActor, context=context, evaluator=evaluator)
    with tempfile.TemporaryDirectory(prefix="detkds-tune-") as folder:
        tune.Tuner(
            tune.with_resources(trainable, per_worker),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=workers,
                reuse_actors=reuse,
                metric="score",
                mode="max",
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="search",
                verbose=0,
                callbacks=[_Started(searcher)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


class TrialActor(tune.Trainable):
    """A worker: one step is one trial, and it is reset from trial to trial, never rebuilt."""

    def setup(self, config: dict, context: Any = None, evaluator: Any = None) -> None:
        self.content, self.evaluator = context, evaluator
        self.context: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        number, stage, document = new_config["candidate"]
        self.candidate = Candidate(number, stage, Distiller.from_dict(document))
        return True

    def step(self) -> dict[str, Any]:
        outcome = self._evaluate()
        score = float("nan") if outcome.score is None else outcome.score
        return {"score": score, _WRAPPED: outcome.to_json(), "done": True}

    def _evaluate(self) -> Outcome:
        try:
            if self.context is None:
                self.context = self.content()
            return self.evaluator(self.context, self.candidate)
        except Exception:
            return Outcome.failed(traceback.format_exc())


class _AskTell(Searcher):
    """Tune's side of ask and tell.

    Tune pickles its searcher for a restore of its own; ours resumes from the store, so the pickle
    holds no source.
    """

    def __init__(self, source: Source | None) -> None:
        super().__init__(metric="score", mode="max")
        self.source: Any = source
        self.live: dict[str, Candidate] = {}

    def __reduce__(self) -> tuple:
        return _AskTell, (None,)

    def suggest(self, trial_id: str) -> dict | str | None:
        candidate = self.source.ask()
        if candidate is None:
            return Searcher.FINISHED if self.source.done else None
        self.live[trial_id] = candidate
        document = candidate.distiller.to_dict()
        return {"candidate": (candidate.number, candidate.stage, document)}

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        candidate = self.live.pop(trial_id)
        if error or not result or _WRAPPED not in result:
            outcome = Outcome.failed("the worker died (out of memory, killed, or lost)")
        else:
            outcome = Outcome.from_json(result[_WRAPPED])
        self.source.tell(candidate, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers every trial, and a search resumes from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class _Started(tune.Callback):
    def __init__(self, searcher: _AskTell) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.searcher.source.started(self.searcher.live[trial.trial_id])


def run_trainings(
    trainings: list[Training],
    resources: Resources,
    *,
    on_progress: Callable[[list[tuple[int, int]]], None] = lambda progress: None,
    on_done: Callable[[Training, Outcome], None] = lambda training, outcome: None,
) -> list[Outcome]:
    """Train all, side by side as far as they fit; progress is (iterations done, all) of each."""
    each = per_trial(resources)
    remote = ray.remote(train).options(  # type: ignore[attr-defined]
        num_cpus=each["cpu"], num_gpus=each["gpu"], max_retries=0
    )
    futures = [remote.remote(training) for training in trainings]
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(trainings):
        waiting = [f for i, f in enumerate(futures) if i not in outcomes]
        ready, _ = ray.wait(waiting, timeout=0.5)
        for future in ready:
            index = futures.index(future)
            outcomes[index] = _result(future)
            on_done(trainings[index], outcomes[index])
        on_progress([training.progress() for training in trainings])
    return [outcomes[index] for index in range(len(trainings))]


def run_job(resources: Resources, job: Callable[[], Any]) -> Any:
    """One function on one worker; what it raises is raised here."""
    each = per_trial(resources)
    remote = ray.remote(_call).options(  # type: ignore[attr-defined]
        num_cpus=each["cpu"], num_gpus=each["gpu"], max_retries=0
    )
    try:
        return ray.get(remote.remote(job))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _call(job: Callable[[], Any]) -> Any:
    return job()


def _result(future: Any) -> Outcome:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return Outcome.failed(f"the worker died: {error}")
