"""The models that a teacher order is made of, as a plan has them: the student and its teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...detectors import Signature
from ...distillers import common_strides, excluded, mismatch
from ...settings import PROGRESSIVE, Model, SearchConfig, Split
from ...space import SearchSpace, WrongUse
from ...workers.training import Training
from .checks import read_signature
from .models import plan_teacher, resolved

#: The student's name among the models.
STUDENT = "student"


@dataclass(frozen=True, kw_only=True)
class PoolModel:
    """A model of a teacher order."""

    name: str
    #: The model as workers build it, with its weights.
    model: Model
    #: What identifies the model with its weights.
    key: str
    #: AP in points. None: the AP is measured; a student has none.
    score: float | None
    #: The training that gives the model its weights, or None.
    training: Training | None
    signature: Signature


def check_pool_names(config: SearchConfig) -> None:
    """Raise :class:`WrongUse` for fewer than two teachers, and for a teacher called student."""
    if STUDENT in config.teachers:
        raise WrongUse("the student is no teacher of its own; rename it", f"teachers.{STUDENT}")
    if len(config.teachers) < 2:
        raise WrongUse(
            f"the config has {len(config.teachers)}; an order needs at least 2", "teachers"
        )


def pool_teachers(
    config: SearchConfig, classes: tuple[str, ...], train: Split, folder: Path, data_key: str
) -> list[PoolModel]:
    """The config's ``teachers``; those without weights or schedule take ``teacher.schedule``.

    ``data_key``: the key of ``train``. Raises :class:`WrongUse` as the planning of a search's own
    teacher does.
    """
    found = []
    for name, teacher in config.teachers.items():
        section = f"teachers.{name}"
        teacher = resolved(teacher)
        model = Model(**teacher.model_dump(exclude={"score"}))
        if model.checkpoint is None and model.schedule is None and config.teacher:
            model = model.model_copy(update={"schedule": config.teacher.schedule})
        built, training, key = plan_teacher(config, section, model, train, folder, data_key)
        assert built is not None
        found.append(
            PoolModel(
                name=name,
                model=built,
                key=key,
                score=teacher.score,
                training=training,
                signature=read_signature(section, teacher, classes),
            )
        )
    return found


def check_levels(pool: list[PoolModel]) -> None:
    """Raise :class:`WrongUse` if no stride is common to the levels of all models."""
    common_strides({one.name: one.signature.strides for one in pool})


def check_shares(pool: list[PoolModel], space: SearchSpace) -> None:
    """Raise :class:`WrongUse` if a teacher can't share what a search of the space may find."""
    student, *teachers = pool
    for teacher in teachers:
        for knowledge in space.options:
            pair = student.signature, teacher.signature
            choices = {name for slot in space.slots(knowledge) for name in slot}
            useless = excluded(knowledge, *pair)
            reason = mismatch(knowledge, *pair) or next(
                (f"'{name}': {why}" for name, why in useless.items() if name in choices), None
            )
            if reason:
                raise WrongUse(
                    f"'{PROGRESSIVE}' trains under teachers.{teacher.name} too, but {reason}; "
                    f"leave '{knowledge}' out of search.knowledge",
                    "final.compare",
                )
