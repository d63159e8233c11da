"""The plan of a search or of trainings: everything is checked, and nothing is made yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data import make_shapes, part_of, read_annotations, read_document, write_annotations
from ...data.inspection import Opened
from ...data.proxy import write_proxy
from ...settings import PROGRESSIVE, Data, SearchConfig, Split, Task
from ...space import Distiller, SearchSpace, WrongUse
from ...workers.buildable import check_backends, check_job, check_schedule
from ...workers.cluster import check_machine
from ...workers.training import Training
from ..algorithms import check_algorithm_name
from ..controller import Controller
from . import keys
from .checks import (
    Pair,
    check_outlines,
    compared_distillers,
    proxy_splits,
    read_data,
    read_signatures,
    searched_space,
)
from .full import choice_notes, full_job, trained_alone, validated_on
from .models import plan_teacher, plan_warmup, trained, with_resolved_models
from .pool import (
    STUDENT,
    PoolModel,
    check_levels,
    check_pool_names,
    check_shares,
    pool_teachers,
)
from .schedules import Scheduled, schedules
from .start import start_distillers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search, or a training, uses and does. Whoever runs the plan decides nothing more."""

    config: SearchConfig
    #: The work folder.
    folder: Path
    #: The space that is searched.
    space: SearchSpace
    #: The signatures of student and teacher.
    signatures: Pair
    #: The split of the full trainings.
    train: Split
    #: The split of images that no detector is trained on, if there is one.
    val: Split | None
    #: The split that the final table is measured on, if there is one.
    test: Split | None
    #: The training and the validation split of trials.
    proxy: tuple[Split, Split]
    #: The training of a teacher without weights, or None.
    teacher: Training | None
    #: The training of the student that all trials start from, or None.
    warmup: Training | None
    #: What trials train.
    task: Task
    #: The rows of the final table, by name, with their hand-made distillers.
    compare: dict[str, Distiller | None]
    #: The models of a teacher order, the student first; empty without an order.
    pool: tuple[PoolModel, ...] = ()
    #: The keys of what trials train with, before teacher and warm-up are trained.
    trial_keys: keys.TrialKeys
    #: The key of the training split.
    train_key: str
    #: The key of the test split, if there is one.
    test_key: str | None
    #: Images that an epoch of the training split shows.
    images: int
    #: The images that could be opened.
    opened: Opened

    @property
    def schedules(self) -> list[Scheduled]:
        """Of the trainings that the config asks for."""
        return schedules(self.config, self.images)

    @property
    def notes(self) -> list[str]:
        """What is odd about the data, and what trainings do otherwise than their sections say."""
        changes = [f"{one.section}: {text}" for one in self.schedules for text in one.changes]
        return [*self.opened.notes, *changes, *choice_notes(self)]

    @property
    def seed(self) -> int:
        """The seed of the search and of its trials."""
        return self.config.search.seed

    def student_key(self, data: Data) -> str:
        """The key of what the full trainings of the student on ``data`` have in common."""
        own = self.trial_keys.student, self.train_key, self.test_key
        return keys.student_key(data, *own, full_job(self.config))

    @property
    def conditions(self) -> str:
        """The key of what the plan says of trials. A search that has another can't be resumed."""
        return keys.conditions_key(self.config, self.trial_keys)

    @property
    def trial_conditions(self) -> str:
        """The key of all that scores of trials depend on: the weights of teacher and warm-up, too.

        Until these are trained, no trial has this key.
        """
        weights = tuple(
            keys.file_fingerprint(training.checkpoint) if training.finished() else None
            for training in self.preliminary
        )
        return keys.conditions_key(self.config, replace(self.trial_keys, weights=weights))

    @property
    def record(self) -> dict[str, Any]:
        """The config as the store keeps it, with the value of each condition."""
        values = keys.condition_values(self.config, self.trial_keys)
        return {**self.config.model_dump(mode="json"), keys.VALUES: values}

    def training(self, **own: Any) -> Training:
        """A full training with the plan's splits, job and threads; ``own``: its other fields."""
        job, threads = full_job(self.config), self.task.threads
        splits: dict[str, Any] = {"train": self.train, "test": self.test, "val": validated_on(self)}
        return Training(**splits, job=job, threads=threads, **own)

    @property
    def preliminary(self) -> list[Training]:
        """The trainings that trials wait for: a teacher without weights, the warm-up."""
        return [training for training in (self.teacher, self.warmup) if training is not None]


def make_plan(
    config: SearchConfig, folder: Path, *, pool: bool | None = None, every_image: bool = False
) -> Plan:
    """Check a whole config and plan what it asks for. Raises :class:`WrongUse`; writes nothing.

    ``pool``: whether the plan has the models of a teacher order. None: it has them if the final
    table has a progressive training, and their teachers must share what the search may find.
    ``every_image``: whether all are opened; see :class:`~detkds.data.inspection.Opened`.
    """
    folder = folder.absolute()
    opened = Opened.read(folder, every_image)
    check_algorithm_name(config.search.algorithm)
    check_machine(config.resources, config.shared)
    data = read_data(config, folder, opened)
    train, data_key = data.train, data.train_key
    whole = with_resolved_models(config)
    check_outlines(whole, (train, data.test))
    signatures = read_signatures(whole, data.classes)
    space = searched_space(config, signatures)
    start = start_distillers(config.search.start, space, store=None)
    Controller(space, config.search, config.search.seed, start)  # raises what a search would
    proxy, proxy_key = proxy_splits(config, train, folder, data_key)
    compare = compared_distillers(config, signatures)
    teacher, training, teacher_key = plan_teacher(
        whole, "teacher", whole.teacher, train, folder, data_key
    )
    trial_keys = keys.TrialKeys(
        student=keys.model_key(whole.student), teacher=teacher_key, proxy=proxy_key
    )
    plan = Plan(
        config=config,
        folder=folder,
        space=space,
        signatures=signatures,
        train=train,
        val=data.val,
        test=data.test,
        proxy=proxy,
        teacher=training,
        warmup=plan_warmup(whole, proxy[0], folder, trial_keys.student, proxy_key),
        task=Task(
            student=whole.student,
            teacher=teacher,
            inherit=config.inherit,
            job=config.job,
            data=config.data,
            threads=config.resources.threads,
        ),
        compare=compare,
        trial_keys=trial_keys,
        train_key=data_key,
        test_key=data.test_key,
        images=data.images,
        opened=opened,
    )
    check_job(full_job(config))
    check_backends(config.trial.vis_backends, "trial.vis_backends")
    for one in plan.schedules:
        check_schedule(one.section, one.schedule, one.iterations)
    if not (PROGRESSIVE in compare if pool is None else pool):
        return plan
    if config.data.image_size is None:
        raise WrongUse(
            "an order of teachers is measured on images of data.image_size, which this config "
            "leaves to the student's pipeline; give the section data",
            "teachers",
        )
    check_pool_names(config)
    models = [_pool_student(plan), *pool_teachers(config, data.classes, train, folder, data_key)]
    check_levels(models)
    if pool is None:
        check_shares(models, space, config.data)
    return replace(plan, pool=tuple(models))


def _pool_student(plan: Plan) -> PoolModel:
    """The student of a teacher order.

    A student without weights of its own is the student that the final table trains alone, under
    the first seed.
    """
    model, training = plan.task.student, None
    if model.checkpoint is not None:
        key = plan.trial_keys.student
    elif plan.config.final is None:
        raise WrongUse("costs need a trained student; give one, or `final`", "student.checkpoint")
    else:
        training, key = trained_alone(plan, plan.config.final.seeds[0])
        model = trained(model, training)
    assert plan.config.data.image_size is not None
    return PoolModel(
        name=STUDENT,
        model=model,
        key=keys.pool_key(key, plan.config.data.image_size),
        image_size=plan.config.data.image_size,
        score=None,
        training=training,
        signature=plan.signatures[0],
    )


def make_data(plan: Plan) -> None:
    """Write the files of the synthetic set and the proxy that are missing, and what was opened."""
    data, proxy = plan.config.data, plan.config.proxy
    plan.opened.write(plan.folder)
    if data.synthetic is not None:
        make_shapes(plan.folder / "data", **data.synthetic.model_dump())
    for split in (plan.train, plan.val, plan.test):
        for one in (split, *split.parts) if split else ():
            if one.written:
                plan.folder.mkdir(parents=True, exist_ok=True)
                write_annotations(one.annotations, read_document(one))
    first, second = plan.proxy
    if proxy.train is None and not all(
        Path(split.annotations).is_file() for split in (*first.parts, first, second)
    ):
        folder = Path(first.annotations).parent
        sizes = proxy.train_images, proxy.val_images
        write_proxy(plan.train.annotations, *sizes, folder, proxy.seed)
        drawn = read_annotations(first.annotations) if first.parts else {}
        for number, part in enumerate(first.parts):
            write_annotations(part.annotations, part_of(drawn, first, number))
