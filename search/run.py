"""A search from its plan to its table: teacher, warm-up, trials, final trainings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from .. import __version__
from ..db import SearchRow, Store, TrialRow
from ..detectors import register
from ..distillers import check_pair
from ..space import Distiller, Outcome, Status, Term, WrongUse
from ..workers.ray_engine import cluster, run, run_job, run_trainings
from ..workers.training import Training
from ..workers.trial import TrialContext
from .controller import Controller
from .plan import Plan, final_trainings, make_data, student_training
from .progressive import check_started, progressive_stages
from .rejection import store_batch
from .session import Session
from .start import start_terms
from .teacher_order import Pool, teacher_order
from .teachers import COST_IMAGES, PoolModel, make_pool, measured_costs


class Display(Protocol):
    """What a search tells its watcher."""

    def dashboard(self, address: str) -> None: ...
    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None: ...
    def search(self, session: Session, planned: int) -> None: ...
    def say(self, text: str) -> None: ...


class SearchFailed(RuntimeError):
    """The search could not go on; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a search leaves: the best trial's distiller in a file, and the final trainings."""

    search: SearchRow
    best: TrialRow
    distiller_file: Path
    trainings: list[tuple[Training, Outcome]]


def check_name(plan: Plan, store: Store, name: str, resume: bool) -> None:
    """Raise :class:`WrongUse` if the name is taken, or its scores would not compare."""
    known = store.find_search(name)
    if known is None:
        return
    if not resume:
        raise WrongUse(
            f"--name: a search '{name}' is in {store.url} already: continue it with --resume "
            "or give another --name"
        )
    if known.conditions != plan.conditions:
        changed = _changed(known.config, plan.config.model_dump(mode="json"))
        raise WrongUse(
            f"--resume: scores of '{name}' would not compare: {changed} changed since it was "
            "started; restore it or start another search with --name"
        )


def _changed(before: dict, after: dict) -> str:
    """The options that differ, of the sections that scores depend on."""
    sections = ("student", "teacher", "data", "proxy", "trial", "search")
    names = ["inherit"] if before.get("inherit", False) != after.get("inherit") else []
    for section in sections:
        old, new = before.get(section) or {}, after.get(section) or {}
        names += [f"{section}.{key}" for key in new if old.get(key) != new[key] and key != "start"]
    return ", ".join(names) or "a data file, a checkpoint or the version of detkds"


def run_search(
    plan: Plan, store: Store, name: str, resume: bool, display: Display, distiller_file: Path
) -> Result:
    """Run a search to its end, from wherever it stands.

    Raises :class:`WrongUse` if there is nothing to start or resume under this name, before
    anything is made; :class:`SearchFailed` if trials or trainings fail.
    """
    check_name(plan, store, name, resume)
    start = start_terms(plan.config.search.start, plan.space, store)
    with cluster(plan.config.resources) as dashboard:
        display.dashboard(dashboard)
        search = store.find_search(name) or _create(plan, store, name, start)
        make_data(plan)
        register()
        _train(plan.preliminary, plan, display, store, search)
        _run_trials(plan, store, search, display)
        best = store.best(search.id)
        if best is None:
            raise SearchFailed("no trial completed: see `detkds trials` for the reasons")
        store.finish_search(search.id)
        found = exported(best, search)
        found.to_json(distiller_file)
        trainings = final_trainings(plan, found) if plan.config.final else []
        outcomes = _train(trainings, plan, display, store, search)
    return Result(search, best, distiller_file, list(zip(trainings, outcomes, strict=True)))


def _create(plan: Plan, store: Store, name: str, start: list[Term]) -> SearchRow:
    """The terms it starts from are kept with it: what they were read from may change."""
    config = plan.config.model_dump(mode="json")
    config["search"]["start"] = [str(term) for term in start]
    return store.create_search(name, config, plan.conditions, plan.seed)


def run_training(
    plan: Plan, store: Store, display: Display, distiller: Distiller | None, name: str
) -> list[tuple[Training, Outcome]]:
    """Train the plan's student in full under each of ``final.seeds``."""
    final = plan.config.final
    if final is None:
        raise WrongUse("the config has no section `final`: it says how long the student is trained")
    if distiller is not None:
        check_pair(distiller, *plan.signatures)
    document = None if distiller is None else distiller.to_dict()
    schedule = final.model_dump(exclude={"seeds", "compare"})
    trainings = [student_training(plan, name, document, schedule, seed) for seed in final.seeds]
    make_data(plan)
    register()
    with cluster(plan.config.resources) as dashboard:
        display.dashboard(dashboard)
        if plan.teacher is not None and distiller is not None:
            _train([plan.teacher], plan, display, store, None)
        outcomes = _train(trainings, plan, display, store, None)
    return list(zip(trainings, outcomes, strict=True))


def order_pool(
    plan: Plan, models: list[PoolModel], store: Store, display: Display, images: int
) -> Pool:
    """The costs and scores of a config's student and teachers: trained and measured as needed."""
    make_data(plan)
    register()
    with cluster(plan.config.resources) as dashboard:
        display.dashboard(dashboard)
        _train([m.training for m in models if m.training], plan, display, store, None)
        job = partial(run_job, plan.config.resources)
        display.say(f"adaptation costs of {len(models)} models on up to {images} images")
        costs = measured_costs(models, plan, store, images, job)
        return make_pool(models, costs, plan, job)


def run_progressive(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    models: list[PoolModel],
    teachers: list[PoolModel] | None,
    algorithm: str,
    most: int | None,
) -> list[tuple[Training, Outcome]]:
    """Train the student along a sequence of teachers, under each of ``final.seeds``.

    ``teachers``: first to last; None for the order that ``algorithm`` gives, of ``most`` at the
    most, over ``models``. A training that was killed goes on in the stage and epoch it had reached.
    """
    if teachers is None:
        pool = order_pool(plan, models, store, display, COST_IMAGES)
        order = teacher_order(pool, algorithm, most).teachers
        teachers = [one for name in order for one in models if one.name == name]
    display.say(f"teachers: {' → '.join(teacher.name for teacher in teachers)}")
    seeds = [] if plan.config.final is None else plan.config.final.seeds
    stages = [progressive_stages(plan, teachers, name, distiller, seed) for seed in seeds]
    for seed, of_seed in zip(seeds, stages, strict=True):
        check_started(plan, name, seed, of_seed)
    make_data(plan)
    register()
    results: list[tuple[Training, Outcome]] = []
    with cluster(plan.config.resources) as dashboard:
        display.dashboard(dashboard)
        _train([t.training for t in teachers if t.training], plan, display, store, None)
        for side_by_side in map(list, zip(*stages, strict=True)):
            outcomes = _train(side_by_side, plan, display, store, None)
            results += zip(side_by_side, outcomes, strict=True)
    return results


def exported(best: TrialRow, search: SearchRow) -> Distiller:
    """The best trial's distiller, without terms of weight 0, and where it comes from."""
    config = search.config
    proxy = config["proxy"]
    provenance = {
        "search": search.name,
        "trial": best.number,
        "student": _model_name(config["student"]),
        "teacher": _model_name(config["teacher"]),
        "proxy": {
            "ap": best.score,
            "train_images": proxy["train_images"],
            "val_images": proxy["val_images"],
        },
        "seed": search.seed,
        "version": __version__,
    }
    return replace(
        best.distiller, terms=best.distiller.active, name=search.name, provenance=provenance
    )


def _model_name(model: dict) -> str:
    config = model["config"]
    return config if isinstance(config, str) else str(config.get("type"))


def _run_trials(plan: Plan, store: Store, search: SearchRow, display: Display) -> None:
    warmup = None if plan.warmup is None else str(plan.warmup.checkpoint)
    trial, seed = plan.config.trial, plan.seed
    start = [Term.parse(text) for text in search.config["search"].get("start", [])]
    controller = Controller(plan.space, plan.config.search.evolution, seed, start)
    context = TrialContext.build(plan.task, trial, plan.proxy, seed=seed, warmup=warmup)
    batch = store_batch(context)
    del context
    session = Session(controller, store, search.id, plan.conditions, seed, batch.reject)
    session.resume()
    session.changed = lambda: display.search(session, controller.planned)
    session.changed()
    if not session.done:
        resources = plan.config.resources
        with _stopped_by_interrupt(session):
            run(session, plan.task, trial, plan.proxy, resources, seed=seed, warmup=warmup)
    if session.failures:
        raise SearchFailed(
            f"the last {session.failures} trials failed: {_last_line(session.error)}"
        )


@contextmanager
def _stopped_by_interrupt(session: Session) -> Iterator[None]:
    """Ctrl-C ends the search even where the exception itself gets lost in somebody's callback."""

    def interrupt(number: int, frame: object) -> None:
        session.stopped = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if session.stopped:
        raise KeyboardInterrupt


def _train(
    trainings: list[Training], plan: Plan, display: Display, store: Store, search: SearchRow | None
) -> list[Outcome]:
    """Train what is not trained yet, each with its row in the store."""
    todo = [training for training in trainings if training.finished() is None]
    rows = {
        training.folder: store.add_training(
            name=training.name,
            seed=training.seed,
            split="test" if training.test else "none",
            conditions=plan.conditions,
            search_id=search.id if search else None,
            distiller=_form(training),
        )
        for training in todo
    }

    def on_done(training: Training, outcome: Outcome) -> None:
        store.finish_training(rows[training.folder], outcome, str(training.checkpoint))
        if outcome.status is Status.FAILED:
            raise SearchFailed(f"{training.name} failed: {_last_line(outcome.error)}")

    if todo:
        names = [training.name for training in todo]
        run_trainings(
            todo,
            plan.config.resources,
            on_progress=lambda progress: display.training(names, progress),
            on_done=on_done,
        )
    return [training.finished() or Outcome.failed("no outcome") for training in trainings]


def _form(training: Training) -> Distiller | None:
    return None if training.distiller is None else Distiller.from_dict(training.distiller)


def _last_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else "no error was recorded"
