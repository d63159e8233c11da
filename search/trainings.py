"""Full trainings: under one teacher, and along a sequence of teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ..db import SearchRow, Store
from ..detectors import register
from ..space import Distiller, Outcome, SearchFailed, Status, WrongUse
from ..workers.cluster import cluster
from ..workers.tasks import run_job, run_trainings
from ..workers.training import Training
from .checks import Pair, check_distiller
from .plan import Plan, final_section, make_data, student_training
from .progressive import check_started, progressive_stages
from .session import Session
from .teacher_order import Pool, teacher_order
from .teachers import COST_IMAGES, PoolModel, make_pool, measured_costs


class Display(Protocol):
    """What a search tells its watcher."""

    def dashboard(self, address: str) -> None: ...
    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None: ...
    def search(self, session: Session, planned: int) -> None: ...
    def say(self, text: str) -> None: ...


def check_training(
    plan: Plan, distiller: Distiller | None, teachers: Sequence[PoolModel] = ()
) -> None:
    """Before anything is made: a full training by this distiller, or under these teachers.

    Raises :class:`WrongUse` if the config does not say how, or a pair can't share its knowledge.
    """
    final = final_section(plan)
    student, teacher = plan.signatures
    if distiller is None:
        return
    if teachers and not distiller.needs_teacher:
        raise WrongUse(
            f"--teachers: {distiller.name or 'the distiller'} learns from no teacher; leave it out"
        )
    pairs: list[Pair] = [(student, one.signature) for one in teachers]
    for pair in pairs or [(student, teacher)]:
        check_distiller(distiller, pair, final, f"--distiller {distiller.name or ''}".rstrip())


def run_training(
    plan: Plan, store: Store, display: Display, distiller: Distiller | None, name: str
) -> list[tuple[Training, Outcome]]:
    """Train the plan's student in full under each of ``final.seeds``."""
    check_training(plan, distiller)
    final = final_section(plan)
    document = None if distiller is None else distiller.to_dict()
    schedule = final.model_dump(exclude={"seeds", "compare"})
    trainings = [student_training(plan, name, document, schedule, seed) for seed in final.seeds]
    with _ready(plan, display):
        if plan.teacher is not None and any(training.teacher for training in trainings):
            train_all([plan.teacher], plan, display, store)
        outcomes = train_all(trainings, plan, display, store)
    return list(zip(trainings, outcomes, strict=True))


def run_order(
    plan: Plan, models: list[PoolModel], store: Store, display: Display, images: int
) -> Pool:
    """The costs and scores of a config's student and teachers: trained and measured as needed."""
    with _ready(plan, display):
        return measured_pool(plan, models, store, display, images)


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
    most, over ``models``. A training that was killed goes on in the stage and iteration it had
    reached. Returns every stage of every seed.
    """
    check_training(plan, distiller, teachers or models[1:])
    if teachers is not None:
        check_started(plan, name, teachers, distiller)
    with _ready(plan, display):
        if teachers is None:
            pool = measured_pool(plan, models, store, display, COST_IMAGES)
            teachers = ordered(models, pool, algorithm, most)
        return train_along(plan, store, display, distiller, name, teachers)


def measured_pool(
    plan: Plan, models: list[PoolModel], store: Store, display: Display, images: int
) -> Pool:
    """Inside of a cluster: what is not trained is trained, what is not known is measured."""
    train_all([m.training for m in models if m.training], plan, display, store)
    job = partial(run_job, plan.config.resources)
    display.say(f"adaptation costs of {len(models)} models on up to {images} images")
    costs = measured_costs(models, plan, store, images, job)
    return make_pool(models, costs, plan, job)


def ordered(
    models: list[PoolModel], pool: Pool, algorithm: str = "bgs", most: int | None = None
) -> list[PoolModel]:
    """The models of the teacher order, first to last."""
    by_name = {one.name: one for one in models}
    return [by_name[name] for name in teacher_order(pool, algorithm, most).teachers]


def train_along(
    plan: Plan,
    store: Store,
    display: Display,
    distiller: Distiller,
    name: str,
    teachers: list[PoolModel],
    search: SearchRow | None = None,
) -> list[tuple[Training, Outcome]]:
    """Inside of a cluster: one teacher after the other, the seeds side by side."""
    display.say(f"teachers: {' → '.join(teacher.name for teacher in teachers)}")
    check_started(plan, name, teachers, distiller)
    seeds = final_section(plan).seeds
    stages = [progressive_stages(plan, teachers, name, distiller, seed) for seed in seeds]
    train_all([t.training for t in teachers if t.training], plan, display, store)
    results: list[tuple[Training, Outcome]] = []
    for side_by_side in map(list, zip(*stages, strict=True)):
        outcomes = train_all(side_by_side, plan, display, store, search)
        results += zip(side_by_side, outcomes, strict=True)
    return results


@contextmanager
def _ready(plan: Plan, display: Display) -> Iterator[None]:
    make_data(plan)
    register()
    with cluster(plan.config.resources, plan.folder) as dashboard:
        display.dashboard(dashboard)
        yield


def train_all(
    trainings: list[Training],
    plan: Plan,
    display: Display,
    store: Store,
    search: SearchRow | None = None,
) -> list[Outcome]:
    """Train what is not trained yet, each with its row in the store.

    Raises :class:`SearchFailed` naming all that failed, when the others are done.
    """
    known = [training.finished() for training in trainings]
    todo = [t for t, outcome in zip(trainings, known, strict=True) if outcome is None]
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

    names = [training.name for training in todo]
    new: list[Outcome] = []
    if todo:
        new = run_trainings(
            todo,
            plan.config.resources,
            on_progress=lambda progress: display.training(names, progress),
            on_done=on_done,
        )
    failed = [pair for pair in zip(todo, new, strict=True) if pair[1].status is Status.FAILED]
    if failed:
        raise SearchFailed("; ".join(f"{t.name} failed{because(outcome)}" for t, outcome in failed))
    remaining = iter(new)
    return [outcome or next(remaining) for outcome in known]


def because(failure: Outcome) -> str:
    """Where something failed, and the last line of why: the end of a sentence."""
    lines = (failure.error or "").strip().splitlines()
    where = f" on {failure.host}" if failure.host else ""
    return f"{where}: {lines[-1].strip() if lines else 'no error was recorded'}"


def _form(training: Training) -> Distiller | None:
    return None if training.distiller is None else Distiller.from_dict(training.distiller)
