"""Full trainings of a plan: checked, run side by side, each with its row in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

from ...db import SearchRow, Store
from ...db.runners import doing_now
from ...detectors import register
from ...space import Distiller, Outcome, SearchFailed, Status, WrongUse
from ...workers.cluster import cluster, starting
from ...workers.retries import Deadline
from ...workers.tasks import run_trainings, silence
from ...workers.training import Training
from ..session import Session
from .checks import Pair, check_distiller
from .full import final_section, student_training
from .plan import Plan, make_data
from .pool import PoolModel, taught_pair
from .schedules import check_devices


class Display(Protocol):
    """Where a search or a training shows how far it is."""

    def dashboard(self, address: str) -> None: ...
    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None: ...
    def search(self, session: Session, planned: int) -> None: ...
    def say(self, text: str) -> None: ...


def check_training(
    plan: Plan, distiller: Distiller | None, teachers: Sequence[PoolModel] = ()
) -> None:
    """Raise :class:`WrongUse` if the student can't be trained in full with a distiller.

    ``teachers``: those of a training under several teachers; none for a training under the config's
    teacher.
    """
    final = final_section(plan)
    student, teacher = plan.signatures
    if distiller is None:
        return
    if teachers and not distiller.needs_teacher:
        raise WrongUse(
            f"{distiller.name or 'the distiller'} learns from no teacher; leave it out", "order"
        )
    pairs: list[Pair] = [taught_pair(student, one, plan.config.data) for one in teachers]
    for pair in pairs or [(student, teacher)]:
        check_distiller(distiller, pair, final, "distiller")


def run_training(
    plan: Plan, store: Store, display: Display, distiller: Distiller | None, name: str
) -> list[tuple[Training, Outcome]]:
    """Train the plan's student in full under each of ``final.seeds``."""
    check_training(plan, distiller)
    seeds = final_section(plan).seeds
    trainings = [student_training(plan, name, distiller, seed) for seed in seeds]
    todo = [training for training in trainings if not training.finished()]
    for one in trainings:
        if one not in todo:
            display.say(f"{name}, seed {one.seed}: trained already, in {one.folder}")
    with ready(plan, display) if todo else nullcontext():
        if plan.teacher is not None and any(training.teachers for training in todo):
            train_all([plan.teacher], plan, display, store)
        outcomes = train_all(trainings, plan, display, store)
    return list(zip(trainings, outcomes, strict=True))


@contextmanager
def ready(plan: Plan, display: Display) -> Iterator[None]:
    """Make the plan's data and start or join the cluster for the block."""
    check_devices(plan.config, plan.schedules)
    make_data(plan)
    register()
    config = plan.config
    display.say(starting(config.resources))
    with cluster(config.resources, plan.folder, config.shared) as dashboard:
        display.dashboard(dashboard)
        yield


def train_all(
    trainings: list[Training],
    plan: Plan,
    display: Display,
    store: Store,
    search: SearchRow | None = None,
) -> list[Outcome]:
    """Run the trainings that are not done yet, each with its row in the store.

    A training that is done has its row as well: it may have ended before the row was written, when
    its process was killed, or be another search's.

    Raises :class:`SearchFailed`, naming all trainings that failed, when the others are done.
    """
    known = [training.finished() for training in trainings]
    todo = [t for t, outcome in zip(trainings, known, strict=True) if outcome is None]
    done = [row for row in store.trainings() if row.status is Status.COMPLETED]
    rows = {}
    for training, outcome in zip(trainings, known, strict=True):
        own = {**_what(training, plan, search), "checkpoint": str(training.checkpoint)}
        if outcome is not None and any(own.items() <= vars(row).items() for row in done):
            continue
        rows[training.folder] = store.add_training(**own, distiller=_distiller(training))
        if outcome is not None:
            store.finish_training(rows[training.folder], outcome, own["checkpoint"])

    def on_done(training: Training, outcome: Outcome) -> None:
        store.finish_training(rows[training.folder], outcome, str(training.checkpoint))
        if outcome.completed and outcome.reason:
            display.say(f"{training.name}: {outcome.reason}")

    names = [training.name for training in todo]
    labels = [f"{training.name}-seed{training.seed}" for training in todo]

    def on_progress(progress: list[tuple[int, int]]) -> None:
        display.training(names, progress)
        doing_now(store, trainings=dict(zip(labels, progress, strict=True)))

    new: list[Outcome] = []
    if todo:
        new = run_trainings(
            todo,
            plan.config.resources,
            on_progress=on_progress,
            on_done=on_done,
            folder=plan.folder,
            deadlines=_deadlines(todo, plan, store),
            say=display.say,
        )
        doing_now(store)
    failed = [pair for pair in zip(todo, new, strict=True) if pair[1].status is Status.FAILED]
    if failed:
        raise SearchFailed("; ".join(f"{t.name} failed{because(outcome)}" for t, outcome in failed))
    remaining = iter(new)
    return [outcome or next(remaining) for outcome in known]


def _deadlines(trainings: list[Training], plan: Plan, store: Store) -> list[Deadline]:
    """How long each training may take no step, by what trainings of its kind took."""
    took: dict[object, list[float]] = defaultdict(list)
    for row in store.trainings():
        if row.status is Status.COMPLETED and row.seconds is not None:
            took[row.conditions, row.split, row.distiller is None].append(row.seconds)
    given = plan.config.resources.training_deadline
    kinds = [(plan.conditions, _split(t, plan), t.distiller is None) for t in trainings]
    return [silence(given, took[kind]) for kind in kinds]


def because(failure: Outcome) -> str:
    """The host of a failure and the last line of its error, to end a sentence with."""
    lines = (failure.error or "").strip().splitlines()
    where = f" on {failure.host}" if failure.host else ""
    return f"{where}: {lines[-1].strip() if lines else 'no error was recorded'}"


def _what(training: Training, plan: Plan, search: SearchRow | None) -> dict[str, Any]:
    """What a training's row is found by."""
    return {
        "name": training.name,
        "seed": training.seed,
        "split": _split(training, plan),
        "conditions": plan.conditions,
        "search_id": search.id if search else None,
    }


def _split(training: Training, plan: Plan) -> str:
    """What a training is scored on: ``test``, ``proxy`` or ``none``."""
    if training.test is None:
        return "none"
    return "proxy" if training.test == plan.proxy[1] else "test"


def _distiller(training: Training) -> Distiller | None:
    return None if training.distiller is None else Distiller.from_dict(training.distiller)
