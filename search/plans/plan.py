"""Before the first trial: everything checked without a trace, then data, teacher and warm-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ... import __version__
from ...data import make_shapes
from ...data.proxy import write_proxy
from ...detectors import configured, custom_imports
from ...settings import PROGRESSIVE, Final, Model, Schedule, SearchConfig, Split, Task
from ...space import Distiller, SearchSpace, WrongUse
from ...workers.cluster import check_machine
from ...workers.training import Training
from ..algorithms import check_algorithm_name
from .checks import (
    Pair,
    check_compare,
    check_data,
    check_knowledge,
    check_models,
    check_outlines,
    check_proxy,
    file_fingerprint,
    fingerprint,
    model_key,
)
from .start import start_terms


@dataclass(frozen=True)
class Plan:
    """A search that has passed its checks: what it will use, and nothing of it made yet."""

    config: SearchConfig
    folder: Path
    space: SearchSpace
    signatures: Pair
    train: Split
    test: Split | None
    proxy: tuple[Split, Split]
    teacher: Training | None
    warmup: Training | None
    task: Task
    conditions: str
    compare: dict[str, Distiller | None]
    classes: tuple[str, ...]
    data_key: str
    teacher_key: str
    #: What every full training of the student depends on, whatever it learns from.
    student_key: str

    @property
    def seed(self) -> int:
        return self.config.search.seed

    @property
    def preliminary(self) -> list[Training]:
        """The trainings that trials wait for: a teacher without weights, the warm-up."""
        return [training for training in (self.teacher, self.warmup) if training is not None]


def make_plan(config: SearchConfig, folder: Path) -> Plan:
    """Check a configuration whole. Raises :class:`WrongUse`; writes nothing."""
    folder = folder.absolute()
    check_algorithm_name(config.search.algorithm)
    check_machine(config.resources)
    classes, train, test, data_key = check_data(config, folder)
    check_outlines(config, (train, test))
    signatures = check_models(config, classes)
    space = check_knowledge(config, signatures)
    student_key = model_key(config.student)
    start_terms(config.search.start, space, store=None)
    proxy, proxy_key = check_proxy(config, train, folder, data_key)
    compare = check_compare(config, signatures)
    teacher, teacher_key = _teacher(config, "teacher", config.teacher, train, folder, data_key)
    warmup = _plan_warmup(config, proxy[0], folder, [student_key, proxy_key])
    task = Task(
        student=resolved(config.student),
        teacher=config.teacher and resolved(_with_weights(config.teacher, teacher)),
        inherit=config.inherit,
        data=config.data,
        threads=config.resources.threads,
    )
    conditions = fingerprint(
        {
            "student": student_key,
            "teacher": teacher_key,
            "proxy": proxy_key,
            "look": _look(config),
            "inherit": config.inherit,
            "trial": config.trial.model_dump(),
            "seed": config.search.seed,
            "version": __version__.rsplit(".", 1)[0],
        }
    )
    return Plan(
        config,
        folder,
        space,
        signatures,
        train,
        test,
        proxy,
        teacher,
        warmup,
        task,
        conditions,
        compare,
        classes,
        data_key,
        teacher_key,
        fingerprint([student_key, data_key, test and _test_key(config, test), *_look(config)]),
    )


def _look(config: SearchConfig) -> list:
    """How images are looked at."""
    return [config.data.image_size, config.data.teacher_image_size, config.data.flip]


def _test_key(config: SearchConfig, test: Split) -> str:
    return "synthetic" if config.data.synthetic else file_fingerprint(test.annotations)


def make_data(plan: Plan) -> None:
    """Write what the plan says is not there yet: the synthetic set and the proxy's files."""
    data, proxy = plan.config.data, plan.config.proxy
    if data.synthetic is not None:
        make_shapes(plan.folder / "data", **data.synthetic.model_dump())
    if proxy.train is None and not all(Path(split.annotations).is_file() for split in plan.proxy):
        folder = Path(plan.proxy[0].annotations).parent
        write_proxy(
            plan.train.annotations, proxy.train_images, proxy.val_images, folder, proxy.seed
        )


def plan_teacher(name: str, model: Model, plan: Plan) -> tuple[Training | None, str]:
    """The training of a teacher without weights, or None; and what identifies the teacher.

    ``name``: its section of the config.
    """
    return _teacher(plan.config, name, model, plan.train, plan.folder, plan.data_key)


def _teacher(
    config: SearchConfig, name: str, model: Model | None, train: Split, folder: Path, data_key: str
) -> tuple[Training | None, str]:
    if model is None:
        return None, "none"
    if model.checkpoint is not None:
        return None, fingerprint([model_key(model), file_fingerprint(model.checkpoint)])
    if model.schedule is None:
        raise WrongUse(
            f"{name}.checkpoint: the teacher has no weights; give a checkpoint, or "
            f"{name}.schedule to train it first"
        )
    data = config.data.for_teachers
    key = fingerprint(
        [model_key(model), data_key, model.schedule.model_dump(), data.flip, data.image_size]
    )
    training = Training(
        name=name.rpartition(".")[2],
        model=resolved(model.model_copy(update={"schedule": None})),
        schedule=model.schedule,
        train=train,
        data=data,
        seed=0,
        threads=config.resources.threads,
        folder=str(folder / f"teacher-{key}"),
    )
    return training, key


def _plan_warmup(
    config: SearchConfig, train: Split, folder: Path, keys: list[str]
) -> Training | None:
    schedule = config.trial.warmup
    if schedule is None:
        return None
    if config.inherit:
        raise WrongUse(
            "trial.warmup: a warmed-up student would lose its neck and head to inherit=True; "
            "use one of them"
        )
    key = fingerprint([*keys, *_look(config), schedule.model_dump(), config.search.seed])
    return Training(
        name="warm-up",
        model=resolved(config.student),
        schedule=schedule,
        train=train,
        data=config.data,
        seed=config.search.seed,
        threads=config.resources.threads,
        folder=str(folder / f"warmup-{key}"),
    )


def _with_weights(model: Model, training: Training | None) -> Model:
    return model if training is None else trained(model, training)


def trained(model: Model, training: Training) -> Model:
    return model.model_copy(update={"checkpoint": str(training.checkpoint), "schedule": None})


def resolved(model: Model) -> Model:
    """The same model without reference to config files: read once, not in every trial."""
    whole = configured(model).to_dict()
    imports = [*model.imports, *custom_imports(model.config)]
    return model.model_copy(update={"config": whole, "cfg_options": {}, "imports": imports})


def final_section(plan: Plan) -> Final:
    """How the student is trained in full. Raises :class:`WrongUse` if the config does not say."""
    if plan.config.final is None:
        raise WrongUse("the config has no section `final`: it says how long the student is trained")
    return plan.config.final


def final_trainings(plan: Plan, found: Distiller) -> list[Training]:
    """The final table's trainings: each distiller under each seed, same schedule and data.

    All but the progressive ones, which wait for an order.
    """
    final = final_section(plan)
    schedule = final.schedule.model_dump()
    trainings = []
    for seed in final.seeds:
        for name, preset in plan.compare.items():
            if name == PROGRESSIVE:
                continue
            distiller = found if name == "found" else preset
            document = None if distiller is None else replace(distiller, name=name).to_dict()
            trainings.append(student_training(plan, name, document, schedule, seed))
    return trainings


def student_training(
    plan: Plan, name: str, document: dict | None, schedule: dict, seed: int
) -> Training:
    """One full training of the plan's student, with or without a distiller.

    Its folder is named after what it depends on: models, weights, annotations, sizes, schedule. A
    student that takes nothing from the teacher is trained without.
    """
    form = None if document is None else Distiller.from_dict(document)
    learns = form is not None and (form.needs_teacher or plan.task.inherit)
    source = [plan.teacher_key, plan.task.inherit] if learns else None
    key = fingerprint([plan.student_key, source, form and form.key, schedule])
    return Training(
        name=name,
        model=plan.task.student,
        teachers=[plan.task.teacher] if learns and plan.task.teacher else [],
        distiller=document,
        inherit=plan.task.inherit and learns,
        schedule=Schedule(**schedule),
        train=plan.train,
        test=plan.test,
        data=plan.config.data,
        seed=seed,
        threads=plan.task.threads,
        folder=str(plan.folder / "trained" / f"{name}-seed{seed}-{key[:8]}"),
    )
