"""A search from its plan to its table: teacher, warm-up, trials, final trainings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..db import SearchRow, Store, TrialRow
from ..db.counts import counts_by_stage, rejections
from ..db.rows import SCORED
from ..db.runners import doing_now
from ..detectors import register
from ..settings import BEST_PRESET, FOUND, PROGRESSIVE
from ..space import Distiller, Outcome, SearchFailed, Status, WrongUse
from ..workers.cluster import cluster, starting
from ..workers.metrics import RECORD_EVERY, SearchMetrics, search_metrics
from ..workers.progress import at_most_every
from ..workers.ray_engine import run
from ..workers.training import Training
from .confirmation import Confirmation, best_preset, confirm
from .controller import Controller
from .detections import look_at_detections
from .exported import best_trial, exported, started_from, trained_distiller, unlearned
from .plans.full import final_section, final_trainings
from .plans.keys import changed_conditions
from .plans.plan import Plan, make_data
from .plans.schedules import check_devices
from .plans.start import start_distillers
from .plans.trainings import Display, because, train_all
from .record import write_record
from .session import Session
from .teachers.pool import COST_IMAGES, measured_pool, ordered, say_scores
from .teachers.progressive import train_along
from .teachers.scored import score_teacher


@dataclass(frozen=True)
class Result:
    """What a search leaves: the exported trial and the file of its distiller, and the trainings.

    ``confirmation``: None if the search confirms nothing.
    """

    search: SearchRow
    best: TrialRow
    confirmation: Confirmation | None
    distiller_file: Path
    trainings: list[tuple[Training, Outcome]]


def check_name(plan: Plan, store: Store, name: str, resume: bool) -> None:
    """Raise :class:`WrongUse` if the name is taken, or if scores would not compare.

    Resuming in a store without any search starts one. A search without scores takes no name: it may
    begin anew, under another config, too.
    """
    known = store.find_search(name)
    if known is None:
        if resume and store.searches():
            store.search(name)  # raises with the nearest name
        return
    if not has_scores(store, known):
        return
    if not resume:
        raise WrongUse(
            f"a search '{name}' is in {store.url} already: resume it or give another name", "name"
        )
    if known.conditions != plan.conditions:
        changed = ", ".join(changed_conditions(known.config, plan.record))
        raise WrongUse(
            f"scores of '{name}' would not compare: {changed} changed since it was started; "
            "restore it or start another search under another name",
            "resume",
        )
    conditions = plan.trial_conditions
    if any(trial.conditions != conditions for trial in store.trials(known.id)):
        trained = " and ".join(str(training.checkpoint) for training in plan.preliminary)
        raise WrongUse(
            f"scores of '{name}' would not compare: its trials had other weights than {trained}, "
            "which another training would not leave again; resume in the work folder that the "
            "search was started in, or start another search under another name",
            "resume",
        )


def run_search(
    plan: Plan, store: Store, name: str, resume: bool, display: Display, distiller_file: Path
) -> Result:
    """Run a search to its end, from wherever it stands.

    Raises :class:`WrongUse`, before anything is made, if the name can't be started or resumed, and
    if another process runs the search; :class:`SearchFailed` if trials or trainings fail.
    """
    check_devices(plan.config, plan.schedules)
    check_name(plan, store, name, resume)
    goes_on = _goes_on(plan, store, name, resume)
    start = _start(plan, store, store.find_search(name) if goes_on else None)
    controller = Controller(plan.space, plan.config.search, plan.seed, start)
    say_scores(plan, display)
    config = plan.config
    display.say(starting(config.resources))
    with (
        store.held(name),
        cluster(config.resources, plan.folder, config.shared) as dashboard,
        search_metrics(name) as metrics,
    ):
        search = store.search(name) if goes_on else _begin(plan, store, name, start, display)
        display.dashboard(dashboard)
        make_data(plan)
        write_record(plan.folder, name, "search", config)
        register()
        train_all(plan.preliminary, plan, display, store, search)
        teacher = score_teacher(plan, store, search, display)
        _run_trials(plan, store, search, controller, display, teacher, metrics)
        leader = store.best(search.id)
        warning = leader and unlearned(leader)
        if warning:
            display.say(warning)
        names = started_from(start)
        confirmation = confirm(plan, store, display, search, names)
        search = store.search(name)
        best = best_trial(store, search)
        if best is None:
            raise SearchFailed("no trial completed: see `detkds trials` for the reasons")
        store.finish_search(search.id)
        found = exported(best, search)
        found.to_json(distiller_file)
        preset = confirmation.preset if confirmation else None
        trial = preset.trial if preset else best_preset(store.trials(search.id), names)
        decided = {FOUND: found}
        if trial is not None and trial.key != best.key:
            decided[BEST_PRESET] = replace(trained_distiller(trial), name=names[trial.key])
        trainings = final_trainings(plan, decided) if plan.config.final else []
        outcomes = train_all(trainings, plan, display, store, search)
        results = list(zip(trainings, outcomes, strict=True))
        if PROGRESSIVE in plan.compare and found.needs_teacher:
            pool = measured_pool(plan, store, display, COST_IMAGES)
            stages = train_along(plan, store, display, found, name, ordered(plan, pool), search)
            last = stages[-len(final_section(plan).seeds) :]
            results += [(t.model_copy(update={"name": PROGRESSIVE}), o) for t, o in last]
        look_at_detections(plan, results, display, name)
    return Result(search, best, confirmation, distiller_file, results)


def _start(plan: Plan, store: Store, known: SearchRow | None) -> list[Distiller]:
    """What a search starts from, or has started from, if it is known: files may have changed."""
    if known is None:
        return start_distillers(plan.config.search.start, plan.space, store)
    return [Distiller.from_dict(one) for one in known.config["search"]["start"]]


def has_scores(store: Store, search: SearchRow) -> bool:
    """Whether a trial of the search was scored; a rejection or a failure is no score."""
    counts = store.counts(search.id)
    return any(counts[status] for status in SCORED)


def _goes_on(plan: Plan, store: Store, name: str, resume: bool) -> bool:
    """Whether a search that is in the store goes on; one without scores may begin anew."""
    known = store.find_search(name)
    if known is None:
        return False
    return has_scores(store, known) or (resume and known.conditions == plan.conditions)


def _begin(
    plan: Plan, store: Store, name: str, start: list[Distiller], display: Display
) -> SearchRow:
    """Store a new search with the distillers that it starts from, or let one begin anew."""
    config = plan.record
    config["search"]["start"] = [replace(one, provenance=None).to_dict() for one in start]
    known = store.find_search(name)
    if known is None:
        return store.create_search(name, config, plan.conditions, plan.seed)
    display.say(f"the search '{name}' had no score yet: it begins anew")
    return store.begin_anew(known.id, config, plan.conditions, plan.seed)


def _run_trials(
    plan: Plan,
    store: Store,
    search: SearchRow,
    controller: Controller,
    display: Display,
    teacher: float | None,
    metrics: SearchMetrics,
) -> None:
    warmup = None if plan.warmup is None else str(plan.warmup.checkpoint)
    trial, seed = plan.config.trial, plan.seed
    session = Session(controller, store, search.id, plan.trial_conditions, seed, teacher=teacher)
    session.resume()
    show(session, display, metrics)
    if not session.done:
        resources = plan.config.resources
        with _stopped_by_interrupt(session):
            in_use = run(
                session,
                plan.task,
                trial,
                plan.proxy,
                resources,
                seed=seed,
                warmup=warmup,
                filtered=plan.config.search.filter,
                folder=plan.folder,
                durations=_durations(store, search),
                say=display.say,
                name=search.name,
                on_progress=session.progress,
            )
        doing_now(store)
        measure(metrics, session)
        display.say(f"trials  workers had one {in_use:.0%} of the time")
    if session.failure is not None:
        raise SearchFailed(
            f"{session.failures} trials in a row failed, the last{because(session.failure)}; "
            "resume the search to try them again"
        )


def show(session: Session, display: Display, metrics: SearchMetrics) -> None:
    """From now on, show what happens: on the screen, to other processes, and to Ray's dashboard."""
    measured = at_most_every(RECORD_EVERY, lambda: measure(metrics, session))

    def changed() -> None:
        display.search(session, session.controller.planned)
        doing_now(session.store, **session.doing)
        measured()

    session.changed, session.answered = changed, metrics.told
    session.changed()


def measure(metrics: SearchMetrics, session: Session) -> None:
    """Bring Ray's metrics to where the search stands."""
    store, search_id, best = session.store, session.search_id, session.controller.best
    counts = counts_by_stage(store, search_id), rejections(store, search_id)
    metrics.show(*counts, None if best is None else best[1].score)


def _durations(store: Store, search: SearchRow) -> list[float]:
    """What the trials took that workers have completed so far, in seconds."""
    trials = store.trials(search.id, status=Status.COMPLETED)
    return [one.seconds for one in trials if one.seconds and one.reused_from is None]


@contextmanager
def _stopped_by_interrupt(session: Session) -> Iterator[None]:
    """Ctrl-C ends the search, even if a library's callback swallows the exception.

    So does each signal that whoever runs the search handles as Ctrl-C.
    """
    before: dict[int, Callable[[int, Any], Any]] = {}

    def interrupt(number: int, frame: object) -> None:
        session.stopped = True
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        names = {"SIGINT", "SIGTERM", "SIGHUP"}
        for one in (one for one in signal.Signals if one.name in names):
            handler = signal.getsignal(one)
            if callable(handler):
                before[one] = handler
                signal.signal(one, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if session.stopped:
        raise KeyboardInterrupt
