"""A search from its plan to its table: teacher, warm-up, trials, final trainings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..db import SearchRow, Store, TrialRow
from ..detectors import register
from ..distillers import excluded, mismatch
from ..settings import PROGRESSIVE
from ..space import Outcome, SearchFailed, Term, WrongUse
from ..workers.cluster import cluster
from ..workers.ray_engine import run
from ..workers.training import Training
from ..workers.trial import TrialContext
from .controller import Controller
from .exported import exported
from .plans.plan import Plan, final_section, final_trainings, make_data
from .plans.start import start_terms
from .plans.trainings import Display, because, train_all
from .rejection import store_batch
from .session import Session
from .teachers.pool import COST_IMAGES, PoolModel, measured_pool, ordered, pool_models
from .teachers.progressive import train_along


@dataclass(frozen=True)
class Result:
    """What a search leaves: the best trial's distiller in a file, and the final trainings."""

    search: SearchRow
    best: TrialRow
    distiller_file: Path
    trainings: list[tuple[Training, Outcome]]


def check_name(plan: Plan, store: Store, name: str, resume: bool) -> None:
    """Raise :class:`WrongUse` if the name is taken, or its scores would not compare.

    To resume in a store that holds no search at all is to start one.
    """
    known = store.find_search(name)
    if known is None:
        if resume and store.searches():
            store.search(name)  # raises with the nearest name
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
    anything is made, or if another process runs the search; :class:`SearchFailed` if trials or
    trainings fail.
    """
    check_name(plan, store, name, resume)
    models = _progressive_models(plan)
    start = start_terms(plan.config.search.start, plan.space, store)
    with store.held(name), cluster(plan.config.resources, plan.folder) as dashboard:
        display.dashboard(dashboard)
        search = store.find_search(name) or _create(plan, store, name, start)
        make_data(plan)
        register()
        train_all(plan.preliminary, plan, display, store, search)
        _run_trials(plan, store, search, display)
        best = store.best(search.id)
        if best is None:
            raise SearchFailed("no trial completed: see `detkds trials` for the reasons")
        store.finish_search(search.id)
        found = exported(best, search)
        found.to_json(distiller_file)
        trainings = final_trainings(plan, found) if plan.config.final else []
        outcomes = train_all(trainings, plan, display, store, search)
        results = list(zip(trainings, outcomes, strict=True))
        if models and found.needs_teacher:
            pool = measured_pool(plan, models, store, display, COST_IMAGES)
            order = ordered(models, pool)
            stages = train_along(plan, store, display, found, name, order, search)
            last = stages[-len(final_section(plan).seeds) :]
            results += [(t.model_copy(update={"name": PROGRESSIVE}), o) for t, o in last]
    return Result(search, best, distiller_file, results)


def _progressive_models(plan: Plan) -> list[PoolModel]:
    """The models of a teacher order, if the final table asks for one.

    Raises :class:`WrongUse` for a teacher that can't share what the search may find.
    """
    if PROGRESSIVE not in plan.compare:
        return []
    student, *teachers = models = pool_models(plan)
    for teacher in teachers:
        for knowledge in plan.space.options:
            pair = student.signature, teacher.signature
            choices = {name for slot in plan.space.slots(knowledge) for name in slot}
            useless = excluded(knowledge, *pair)
            reason = mismatch(knowledge, *pair) or next(
                (f"'{name}': {why}" for name, why in useless.items() if name in choices), None
            )
            if reason:
                raise WrongUse(
                    f"final.compare: '{PROGRESSIVE}' trains under teachers.{teacher.name} too, but "
                    f"{reason}; leave '{knowledge}' out of search.knowledge"
                )
    return models


def _create(plan: Plan, store: Store, name: str, start: list[Term]) -> SearchRow:
    """The terms it starts from are kept with it: what they were read from may change."""
    config = plan.config.model_dump(mode="json")
    config["search"]["start"] = [str(term) for term in start]
    return store.create_search(name, config, plan.conditions, plan.seed)


def _run_trials(plan: Plan, store: Store, search: SearchRow, display: Display) -> None:
    warmup = None if plan.warmup is None else str(plan.warmup.checkpoint)
    trial, seed = plan.config.trial, plan.seed
    start = [Term.parse(text) for text in search.config["search"].get("start", [])]
    controller = Controller(plan.space, plan.config.search, seed, start)
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
    if session.failure is not None:
        raise SearchFailed(
            f"{session.failures} trials in a row failed, the last{because(session.failure)}; "
            "--resume tries them again"
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
