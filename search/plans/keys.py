"""Keys: a key is a hash of everything that a result depends on; equal keys mean equal results.

The store finds trials by the key of their conditions and costs by the key of their images; the
name of a training's folder ends with the training's key. :data:`CONDITIONS` lists, once, everything
that a trial's score depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...detectors import configured
from ...settings import Data, Model, Proxy, Schedule, SearchConfig, Split, TrialSchedule
from ...space import Distiller

#: Major and minor version: within a minor version, losses and scores keep their meaning.
MEANING = __version__.rsplit(".", 1)[0]


def fingerprint(content: Any) -> str:
    """A stable hash of JSON content: 16 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """A hash of a file's content; for a URL, of the URL: the model zoo's names hold a hash."""
    if "://" in str(path):
        return fingerprint(str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


# What goes into a training


def model_key(model: Model) -> str:
    """The key of a model: its whole config, whatever files that comes from, and its weights."""
    start = file_fingerprint(model.checkpoint) if model.checkpoint else None
    return fingerprint([configured(model).to_dict(), start])


def data_key(data: Data) -> str:
    """The key of the training split's annotations, or of the synthetic set."""
    if data.synthetic is not None:
        return fingerprint({"synthetic": data.synthetic.model_dump()})
    assert data.train is not None
    return file_fingerprint(data.train.annotations)


def proxy_key(proxy: Proxy, data: str) -> str:
    """The key of the proxy's two splits. ``data``: the key of the training split."""
    if proxy.train is not None and proxy.val is not None:
        return fingerprint([file_fingerprint(s.annotations) for s in (proxy.train, proxy.val)])
    return fingerprint([data, proxy.train_images, proxy.val_images, proxy.seed])


def view(data: Data) -> list:
    """What student and teacher see of an image: its sizes and the probability of a flip."""
    scales = [data.multi_scale] if data.multi_scale else []
    return [data.image_size, data.teacher_image_size, data.flip, *scales]


# Trainings


def teacher_key(model: Model, data: Data, train: str) -> str:
    """The key of a teacher with its weights, from a checkpoint or from a training.

    ``train``: the key of the split that the teacher would be trained on.
    """
    if model.checkpoint is not None:
        return fingerprint([model_key(model), file_fingerprint(model.checkpoint)])
    assert model.schedule is not None
    own = data.for_teachers
    look = [own.flip, own.image_size, *([own.multi_scale] if own.multi_scale else [])]
    return fingerprint([model_key(model), train, model.schedule.model_dump(), *look])


def warmup_key(config: SearchConfig, schedule: Schedule, student: str, proxy: str) -> str:
    """The key of the warm-up, from the keys of the student's model and of the proxy."""
    return fingerprint(
        [student, proxy, *view(config.data.for_student), schedule.model_dump(), config.search.seed]
    )


def student_key(data: Data, model: str, train: str) -> str:
    """The key of what full trainings of the student on the same images have in common.

    ``data``: the images as the student, and a teacher beside it, see them. ``model``, ``train``:
    the keys of the student's model and of the training split.
    """
    test: str | None = None
    if data.synthetic is not None:
        test = "synthetic"
    elif data.test is not None:
        test = file_fingerprint(data.test.annotations)
    return fingerprint([model, train, test, *view(data)])


def training_key(
    student: str, source: list | None, distiller: Distiller | None, schedule: Schedule
) -> str:
    """The key of a full training of the student, or of the stages of a progressive training.

    ``student``: see :func:`student_key`. ``source``: the keys of the teachers, whether the student
    inherits from them, and the key of the student that it starts from; None for a student that
    takes nothing from a teacher.
    """
    learned = None if distiller is None else distiller.key
    return fingerprint([student, source, learned, schedule.model_dump(), MEANING])


# Adaptation costs

#: Which definition of C(A, B) stored costs follow. Raise it when the definition changes: costs of
#: another definition are measured again.
COSTS = 2


def pool_key(model: str, size: tuple[int, int]) -> str:
    """The key of a model of a teacher order. ``size``: (width, height) of the model's images."""
    return fingerprint([model, size])


def pool_student_key(model: Model) -> str:
    """The key of a student with weights of its own among the models of a teacher order."""
    assert model.checkpoint is not None
    return fingerprint([model.model_dump(), file_fingerprint(model.checkpoint)])


def pool_trained_student_key(student: str, schedule: Schedule, seed: int) -> str:
    """The key of the student that is trained alone, with its weights.

    ``student``: see :func:`student_key`.
    """
    return fingerprint([student, schedule.model_dump(), seed])


def costs_key(split: Split, images: int) -> str:
    """The key of the costs that are measured on the first ``images`` of a split."""
    return fingerprint([COSTS, file_fingerprint(split.annotations), images])


# Trials


@dataclass(frozen=True, kw_only=True)
class TrialKeys:
    """The keys of the models and of the proxy that trials train with."""

    student: str
    teacher: str
    proxy: str


@dataclass(frozen=True)
class Condition:
    """A part of what a trial's score depends on: its value, and the settings behind the value."""

    value: Callable[[SearchConfig, TrialKeys], Any]
    settings: tuple[str, ...]


#: Everything that a trial's score depends on besides the distiller. Each part is hashed under its
#: name here. Every trial has the seed of the search.
CONDITIONS: dict[str, Condition] = {
    "student": Condition(
        lambda config, keys: keys.student,
        ("student.config", "student.cfg_options", "student.checkpoint"),
    ),
    "teacher": Condition(
        lambda config, keys: keys.teacher,
        ("teacher.config", "teacher.cfg_options", "teacher.checkpoint", "teacher.schedule"),
    ),
    "proxy": Condition(
        lambda config, keys: keys.proxy,
        (
            *("data.train.annotations", "data.synthetic"),
            *("proxy.train_images", "proxy.val_images", "proxy.seed"),
            *("proxy.train.annotations", "proxy.val.annotations"),
        ),
    ),
    "look": Condition(
        lambda config, keys: view(config.data),
        ("data.image_size", "data.teacher_image_size", "data.flip", "data.multi_scale"),
    ),
    "inherit": Condition(lambda config, keys: config.inherit, ("inherit",)),
    "trial": Condition(
        lambda config, keys: config.trial.model_dump(),
        tuple(f"trial.{name}" for name in TrialSchedule.model_fields),
    ),
    "seed": Condition(lambda config, keys: config.search.seed, ("search.seed",)),
    "version": Condition(lambda config, keys: MEANING, ()),
}


def conditions_key(config: SearchConfig, keys: TrialKeys) -> str:
    """The key of :data:`CONDITIONS`. Scores under equal keys compare; none is measured twice."""
    return fingerprint({name: one.value(config, keys) for name, one in CONDITIONS.items()})


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings of :data:`CONDITIONS` that differ between two search configs, as JSON content.

    The list is empty if no setting differs, but a file's content or the version of detkds.
    """
    settings = [path for one in CONDITIONS.values() for path in one.settings]
    return [path for path in settings if _setting(before, path) != _setting(after, path)]


def _setting(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as ``trial.epochs``; None for 0, False, [] and a missing setting.

    A config that an earlier version stored lacks the settings that are newer: they were off.
    """
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value or None
