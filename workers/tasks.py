"""Full trainings and single jobs on Ray, which restart when their worker dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from ..settings import Resources
from ..space import Outcome, SearchFailed
from .cluster import per_trial
from .together import RETRIES, train_together
from .training import Training, train

#: Ray Train has an actor ask Ray's dashboard whether the training's controller is alive, and ends
#: the training if the dashboard knows no such actor. Where our Ray has no dashboard, another Ray's
#: on the machine may answer. So none is asked: Ray itself frees what a dead controller held.
_UNASKED = {"env_vars": {"RAY_API_SERVER_ADDRESS": "none"}}


def run_trainings(
    trainings: list[Training],
    resources: Resources,
    *,
    on_progress: Callable[[list[tuple[int, int]]], None] = lambda progress: None,
    on_done: Callable[[Training, Outcome], None] = lambda training, outcome: None,
    trainer: Callable[[Training], Outcome] = train,
) -> list[Outcome]:
    """Run trainings, as many side by side as fit, and return their outcomes in the same order.

    A training of one process is a Ray task; one of several is run by Ray Train. A training whose
    worker dies resumes where it was.

    ``on_progress`` is called with (iterations done, all iterations) of each training, twice a
    second; ``on_done`` with each training that ends.
    """
    each = per_trial(resources)
    alone = _task(trainer, **each)
    waiting_for_others = _task(train_together, cpu=0, gpu=0, runtime_env=_UNASKED)
    futures = [
        alone.remote(training)
        if training.schedule.processes == 1
        else waiting_for_others.remote(training, each)
        for training in trainings
    ]
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
    """Run one function on one worker; returns or raises what the function does.

    Raises :class:`SearchFailed` if the worker dies every time.
    """
    try:
        return ray.get(_task(_call, **per_trial(resources)).remote(job))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise SearchFailed(f"a job's worker died {RETRIES + 1} times: {_reason(error)}") from None


def _task(function: Callable, cpu: float, gpu: float, **more: Any) -> Any:
    return ray.remote(function).options(  # type: ignore[attr-defined]
        num_cpus=cpu, num_gpus=gpu, max_retries=RETRIES, **more
    )


def _call(job: Callable[[], Any]) -> Any:
    return job()


def _result(future: Any) -> Outcome:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        return Outcome.failed(f"its worker died {RETRIES + 1} times: {_reason(error)}")


def _reason(error: Exception) -> str:
    """The first line of Ray's message; the others say where its log files lie."""
    return str(error).strip().splitlines()[0]
