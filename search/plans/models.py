"""The models of a plan as plain data, and the trainings that give them their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from ...detectors import configured, custom_imports
from ...settings import Model, SearchConfig, Split
from ...space import WrongUse
from ...workers.training import Training
from .keys import teacher_key, warmup_key

#: A model, or a teacher with its score.
AnyModel = TypeVar("AnyModel", bound=Model)


def resolved(model: AnyModel) -> AnyModel:
    """The same model with the content of its config files, which nobody need read again."""
    whole = configured(model).to_dict()
    imports = [*model.imports, *custom_imports(model.config)]
    return model.model_copy(update={"config": whole, "cfg_options": {}, "imports": imports})


def with_resolved_models(config: SearchConfig) -> SearchConfig:
    """The same config with the content of the student's and the teacher's config files."""
    teacher = None if config.teacher is None else resolved(config.teacher)
    return config.model_copy(update={"student": resolved(config.student), "teacher": teacher})


def trained(model: Model, training: Training) -> Model:
    """The model with the weights that a training will have left."""
    return model.model_copy(update={"checkpoint": str(training.checkpoint), "schedule": None})


def plan_teacher(
    config: SearchConfig, name: str, model: Model | None, train: Split, folder: Path, data_key: str
) -> tuple[Model | None, Training | None, str]:
    """A teacher with its weights, the training that gives it these, or None, and its key.

    ``name``: the teacher's section of the config; ``model``: the resolved teacher, None for a
    search without teacher; ``data_key``: the key of ``train``. Raises :class:`WrongUse` for a
    teacher that has neither weights nor a schedule.
    """
    if model is None:
        return None, None, "none"
    if model.checkpoint is not None:
        return model, None, teacher_key(model, config.data, data_key, config.job)
    if model.schedule is None:
        raise WrongUse(
            f"the teacher has no weights; give a checkpoint, or {name}.schedule to train it first",
            f"{name}.checkpoint",
        )
    key = teacher_key(model, config.data, data_key, config.job)
    training = Training(
        name=name.rpartition(".")[2],
        role="teacher",
        model=model.model_copy(update={"schedule": None}),
        schedule=model.schedule,
        train=train,
        job=config.job,
        data=config.data.for_teachers,
        seed=0,
        threads=config.resources.threads,
        folder=str(folder / f"teacher-{key}"),
    )
    return trained(model, training), training, key


def plan_warmup(
    config: SearchConfig, train: Split, folder: Path, student_key: str, proxy_key: str
) -> Training | None:
    """The training of the student alone that all trials start from, if the config asks for it.

    ``config`` has resolved models. ``train``: the proxy's training split. The keys are those of the
    student's model and of the proxy.
    """
    schedule = config.trial.warmup
    if schedule is None:
        return None
    if config.inherit:
        raise WrongUse(
            "a warmed-up student would lose its neck and head to inherit=True; use one of them",
            "trial.warmup",
        )
    key = warmup_key(config, schedule, student_key, proxy_key)
    return Training(
        name="warm-up",
        full=False,
        model=config.student,
        schedule=schedule,
        train=train,
        job=config.job,
        data=config.data.for_student,
        seed=config.search.seed,
        threads=config.resources.threads,
        folder=str(folder / f"warmup-{key}"),
    )
