"""The models that a teacher order is made of, as a plan has them: the student and its teachers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from ...detectors import Signature
from ...distillers import excluded, mismatch, pair_levels
from ...settings import PROGRESSIVE, Data, Model, SearchConfig, Split
from ...space import SearchSpace, WrongUse
from ...workers.training import Training
from .checks import Pair, read_signature
from .keys import pool_key, trained_key
from .models import plan_teacher, resolved

#: The student's name among the models.
STUDENT = "student"


@dataclass(frozen=True, kw_only=True)
class PoolModel:
    """A model of a teacher order."""

    name: str
    #: The model as workers build it, with its weights.
    model: Model
    #: What identifies the model, its checkpoint or its training, and the size of its images.
    key: str
    #: (width, height) of the model's images.
    image_size: tuple[int, int]
    #: AP in points. None: the AP is measured; a student has none.
    score: float | None
    #: The training that gives the model its weights, or None.
    training: Training | None
    signature: Signature

    @property
    def with_weights(self) -> PoolModel:
        """The same model, whose training is done, under the key of its weights."""
        if self.training is None:
            return self
        return replace(self, key=trained_key(self.key, self.training.checkpoint))


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
    teacher does, and for a teacher whose images can't stand beside the student's.
    """
    found = []
    for name, teacher in config.teachers.items():
        section = f"teachers.{name}"
        teacher = resolved(teacher)
        size = teacher.image_size or config.data.train_size
        assert size is not None
        fault = config.data.size_fault(size)
        if fault:
            raise WrongUse(f"{size} {fault}", f"{section}.image_size")
        own = config.model_copy(update={"data": config.data.beside(size)})
        model = Model(**teacher.model_dump(exclude={"score", "image_size"}))
        if model.checkpoint is None and model.schedule is None and config.teacher:
            model = model.model_copy(update={"schedule": config.teacher.schedule})
        built, training, key = plan_teacher(own, section, model, train, folder, data_key)
        assert built is not None
        found.append(
            PoolModel(
                name=name,
                model=built,
                key=pool_key(key, size),
                image_size=size,
                score=teacher.score,
                training=training,
                signature=read_signature(section, teacher, classes),
            )
        )
    return found


def check_levels(pool: list[PoolModel]) -> None:
    """Raise :class:`WrongUse` if two models have no stride in common: they have no cost."""
    for one, other in combinations(pool, 2):
        try:
            pair_levels(one.signature, other.signature)
        except WrongUse as error:
            raise WrongUse(error.message, "teachers") from None


def taught_pair(student: Signature, teacher: PoolModel, data: Data) -> Pair:
    """The signatures of a student and of a teacher; of images of other sizes, features alone."""
    same = data.beside(teacher.image_size).student_scale == 1
    return (student if same else student.features_only), teacher.signature


def check_sizes(teachers: Iterable[PoolModel]) -> None:
    """Raise :class:`WrongUse` if teachers that teach at once do not see images of one size."""
    first, *others = teachers
    for one in others:
        if one.image_size != first.image_size:
            raise WrongUse(
                f"it is {one.image_size} and that of '{first.name}' is {first.image_size}, but "
                "teachers that teach at once see the same images: give both the same size",
                f"teachers.{one.name}.image_size",
            )


def check_shares(pool: list[PoolModel], space: SearchSpace, data: Data) -> None:
    """Raise :class:`WrongUse` if a teacher can't share what a search of the space may find."""
    student, *teachers = pool
    for teacher in teachers:
        for knowledge in space.options:
            pair = taught_pair(student.signature, teacher, data)
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
