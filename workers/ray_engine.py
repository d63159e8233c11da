"""Trials on Ray Tune's workers, which stay from trial to trial, for a source of candidates."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray import tune

from ..settings import Resources, Split, Task, TrialSchedule
from ..space import Candidate, Distiller, Outcome, Progress, Status
from .asking import (
    BLIND,
    CANDIDATE,
    NAME,
    NODE,
    OUTCOME,
    PLACE,
    AskTell,
    Ended,
    Source,
    Watch,
)
from .cluster import marker, names, per_trial, room
from .leftovers import temporary
from .places import place
from .progress import LOOK_EVERY, at_most_every, progress_folder, read
from .retries import Deadline, Retries
from .runner import host_and_device
from .trial import TrialContext, evaluate

#: Tune keeps actors and schedules trials; its loggers, its progress and its Ctrl-C are off.
_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The searcher limits the number of trials at a time.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    "RAY_AIR_NEW_OUTPUT": "0",
}


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
    folder: Path | None = None,
    durations: Iterable[float] = (),
    say: Callable[[str], object] = lambda line: None,
    name: str = "search",
    on_progress: Callable[[Mapping[int, Progress]], object] = lambda progress: None,
) -> float:
    """Score the candidates of ``source`` until it is done, on as many workers as fit.

    A worker builds its :class:`TrialContext` once and keeps it from trial to trial. ``filtered``:
    whether its filter tries a candidate before a student is trained. ``folder``: the work folder,
    which every node has to see. ``durations``: the seconds of earlier trials of the same kind, for
    the deadline. ``say`` is called with one line for each node that is put aside. ``name``: the
    search's, which the names of trials begin with. With a ``folder``, ``on_progress`` is called
    every few seconds with how far running trials are, by their numbers. Returns the share
    of the workers' time in which they had a trial.
    """
    with nullcontext() if folder is None else progress_folder(folder, name) as running:
        make_context = partial(
            TrialContext.build,
            *(task, schedule, proxy),
            seed=seed,
            warmup=warmup,
            filtered=filtered,
            folder=folder and folder.absolute(),  # a worker may have another current folder
            name=name,
        )

        def look() -> None:
            if running is not None:
                on_progress(read(running))

        return run_actors(
            source,
            per_trial(resources),
            resources.workers,
            make_context,
            evaluate,
            folder=folder,
            deadline=Deadline(resources.trial_deadline, durations),
            say=say,
            name=name,
            on_look=at_most_every(LOOK_EVERY, look),
        )


def run_actors(
    source: Source,
    per_worker: dict[str, float],
    workers: int | None,
    make_context: Callable[[], Any],
    evaluator: Callable[[Any, Candidate], Outcome],
    *,
    reuse: bool = True,
    folder: Path | None = None,
    deadline: Deadline | None = None,
    say: Callable[[str], object] = lambda line: None,
    name: str = "search",
    on_look: Callable[[], object] = lambda: None,
) -> float:
    """Run ``evaluator`` for every candidate, on workers that call ``make_context`` once each.

    At most ``workers`` candidates are at workers at a time, and never more than the cluster has
    room for. :class:`~detkds.workers.retries.Retries` says where a candidate is tried again, and
    which nodes get no more; a node that does not see ``folder`` gets none. A worker on which a
    trial failed is not used again; a trial beyond the ``deadline`` loses its worker. An exception
    of ``source`` ends the run and is raised here. In Ray's dashboard, what a worker does has the
    trial's name, which begins with ``name``. ``on_look`` is called several times a second. Returns
    the share of the workers' time in which they had a trial. ``reuse=False`` starts an actor for
    every trial, for the benchmark.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it lists trials that did not end
    retries = Retries(partial(names, per_worker), say)
    searcher = AskTell(
        source,
        lambda: min(workers or sys.maxsize, room(per_worker, retries.aside)),
        retries,
        deadline or Deadline(None),
        name,
        on_look,
    )
    with ExitStack() as stack:
        seen = None if folder is None else stack.enter_context(marker(folder))
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix=temporary("tune")))
        trainable = tune.with_parameters(
            TrialActor, make_context=make_context, evaluator=evaluator, seen=seen
        )
        for turn in count():
            tune.Tuner(
                tune.with_resources(trainable, lambda config: place(per_worker, config[PLACE])),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=reuse,
                    metric="score",
                    mode="max",
                ),
                run_config=tune.RunConfig(
                    storage_path=own,
                    name=f"search-{turn}",
                    verbose=0,
                    callbacks=[Ended(searcher)],
                    stop=Watch(searcher),
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
            if not searcher.begins_again():
                break
    if searcher.error is not None:
        raise searcher.error
    return searcher.in_use


class TrialActor(tune.Trainable):
    """A worker. Tune resets it from trial to trial; its context stays."""

    def setup(
        self, config: dict, make_context: Any = None, evaluator: Any = None, seen: Any = None
    ) -> None:
        self.make_context, self.evaluator, self.seen = make_context, evaluator, seen
        self.context: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict) -> bool:
        number, stage, document, early_bar = new_config[CANDIDATE]
        self.candidate = Candidate(number, stage, Distiller.from_dict(document), early_bar)
        self.name = new_config[NAME]
        self.steps = self._steps()
        return True

    def step(self) -> dict[str, Any]:
        return next(self.steps)

    def _steps(self) -> Iterator[dict[str, Any]]:
        """Report where the trial runs, then its outcome; after a failure, end this worker.

        The cause of a failure (a lost device, a full disk) may lie in the worker and not in the
        candidate. Tune gives no other trial to an actor that has raised.
        """
        print(self.name, flush=True)  # the worker's log has all trials of this worker
        where = host_and_device()
        blind = self.seen is not None and not os.path.exists(self.seen)
        yield {**where, NODE: ray.get_runtime_context().get_node_id(), BLIND: blind}
        if blind:
            raise RuntimeError("this node does not see the work folder")
        try:
            if self.context is None:
                self.context = self.make_context()
            outcome = self.evaluator(self.context, self.candidate)
        except Exception:
            outcome = Outcome.failed(traceback.format_exc(), **where)
        print(f"{self.name}: {_in_words(outcome)}", flush=True)
        failed = outcome.status is Status.FAILED
        score = float("nan") if outcome.score is None else outcome.score
        yield {"score": score, OUTCOME: outcome.to_json(), "done": not failed}
        raise RuntimeError("a worker on which a trial failed is not used again")


def _in_words(outcome: Outcome) -> str:
    """What became of a trial, for the worker's log."""
    score = "" if outcome.score is None else f", AP {100 * outcome.score:.1f}"
    seconds = "" if outcome.seconds is None else f" in {outcome.seconds:.0f} s"
    why = outcome.reason or outcome.error
    return f"{outcome.status.value}{seconds}{score}" + (f": {why}" if why else "")
