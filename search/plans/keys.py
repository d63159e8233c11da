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

import mmdet
import torch

from ... import __version__
from ...data import VERSION, Document, pixels_hash, read_document
from ...data.datasets import without_files
from ...detectors import configured, local_file, named_code, user_code
from ...settings import Data, Model, Proxy, Schedule, SearchConfig, Split, Synthetic, TrialSchedule
from ...space import Distiller
from ...workers.job import SHOWING


def minor(version: str) -> str:
    """Major and minor version, such as 2.14 of 2.14.1+cu130."""
    return ".".join(version.split(".")[:2])


#: Within a minor version, losses and scores keep their meaning.
MEANING = minor(__version__)


def fingerprint(content: Any) -> str:
    """A stable hash of JSON content: 16 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """A hash of a file's content; of a URL, of the file that it is downloaded into."""
    digest = hashlib.sha256()
    with open(local_file(path), "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


# What goes into a training


def model_key(model: Model) -> str:
    """The key of a model: its whole config, whatever files that comes from, its code, its weights.

    The code is the user's own: see :func:`~detkds.detectors.user_code`.
    """
    weights = model.checkpoint or model.load_from
    start = file_fingerprint(weights) if weights else None
    return fingerprint([configured(model).to_dict(), user_code(model), start])


def synthetic_key(synthetic: Synthetic) -> str:
    """The key of a synthetic set, whose images follow from its settings."""
    return fingerprint({"synthetic": synthetic.model_dump(), "version": VERSION})


def split_key(split: Split, document: Document) -> str:
    """The key of a split: its annotations, which ``document`` holds, and its images.

    See :func:`~detkds.data.pixels_hash` for what the key may miss.
    """
    names = [image["file_name"] for image in document["images"]]
    files = [
        file_fingerprint(one.annotations) if one.source is None else fingerprint(read_document(one))
        for one in split.parts or [split]
    ]
    labels = files if split.parts else files[0]
    return fingerprint([labels, pixels_hash(split.images, names)])


def proxy_key(proxy: Proxy, train: str) -> str:
    """The key of a proxy that is drawn from the training split, whose key is ``train``."""
    return fingerprint([train, proxy.train_images, proxy.val_images, proxy.seed])


def view(data: Data, job: Mapping[str, Any] | None = None) -> list:
    """What student and teacher see of an image: its sizes and the probability of a flip.

    A ``job`` says more, or all of it.
    """
    scales = [data.multi_scale] if data.multi_scale else []
    more = [job_content(job)] if job else []
    return [data.image_size, data.teacher_image_size, data.flip, *scales, *more]


#: What of a job changes neither a weight nor a score.
_SILENT = ("visualizer", "log_processor", "log_level", "val_evaluator")
#: The same of a trial's schedule.
_SHOWN = "vis_backends"


def job_content(job: Mapping[str, Any]) -> list:
    """What results depend on of a job: its content, and the user's own code that it names.

    Where the files of its data sets lie is left out, which the keys of the splits stand for, and
    what only looks on.
    """
    content: dict[str, Any] = {name: job[name] for name in job if name not in _SILENT}
    hooks = dict(content.pop("default_hooks", None) or {})
    content["default_hooks"] = {name: hooks[name] for name in hooks if name not in SHOWING}
    for loader in ("train_dataloader", "val_dataloader"):
        if loader in content:
            dataset = without_files(content[loader]["dataset"])
            content[loader] = {**content[loader], "dataset": dataset}
    return [content, named_code(content)]


# Trainings


def teacher_key(model: Model, data: Data, train: str, job: Mapping[str, Any] | None = None) -> str:
    """The key of a teacher with its weights, or of the training that gives it weights.

    ``train``: the key of the split that the teacher would be trained on.
    """
    if model.checkpoint is not None:
        return model_key(model)
    assert model.schedule is not None
    own = data.for_teachers
    look = [own.flip, own.image_size, *([own.multi_scale] if own.multi_scale else [])]
    look += [job_content(job)] if job else []
    return fingerprint([model_key(model), train, model.schedule.model_dump(), *look])


def warmup_key(config: SearchConfig, schedule: Schedule, student: str, proxy: str) -> str:
    """The key of the warm-up, from the keys of the student's model and of the proxy."""
    return fingerprint(
        [
            *(student, proxy, *view(config.data.for_student, config.job)),
            *(schedule.model_dump(), config.search.seed),
        ]
    )


def student_key(
    data: Data, model: str, train: str, test: str | None, job: Mapping[str, Any] | None = None
) -> str:
    """The key of what full trainings of the student on the same images have in common.

    ``data``: the images as the student, and a teacher beside it, see them. The other keys are those
    of the student's model, of the training split and of the test split, if there is one.
    """
    return fingerprint([model, train, test, *view(data, job)])


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


def pool_trained_student_key(student: str, schedule: Schedule, seed: int) -> str:
    """The key of the student that is trained alone, with its weights.

    ``student``: see :func:`student_key`.
    """
    return fingerprint([student, schedule.model_dump(), seed])


def trained_key(recipe: str, checkpoint: Path) -> str:
    """The key of a model that was trained: the key of its training, and the weights themselves.

    The same training leaves other last digits on other machines.
    """
    return fingerprint([recipe, file_fingerprint(checkpoint)])


def costs_key(split: str, images: int) -> str:
    """The key of the costs on the first ``images`` of a split, whose key is ``split``."""
    return fingerprint([COSTS, split, images])


# Trials


@dataclass(frozen=True, kw_only=True)
class TrialKeys:
    """The keys of the models, of the proxy and of the weights that trials train with."""

    student: str
    teacher: str
    proxy: str
    #: Hashes of the weights of teacher and warm-up, if they are trained before the trials; None for
    #: a training that is not done.
    weights: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Condition:
    """A part of what a trial's outcome depends on.

    Its value, None for a part that is not there; the settings behind the value; in words, what else
    changes the value.
    """

    value: Callable[[SearchConfig, TrialKeys], Any]
    settings: tuple[str, ...] = ()
    otherwise: str = ""


#: Everything that a trial's outcome depends on besides the distiller. Each part is hashed under its
#: name here. Every trial has the seed of the search. No score depends on the filter, but a search
#: without the filter has scores of distillers that a search with the filter rejects.
CONDITIONS: dict[str, Condition] = {
    "student": Condition(
        lambda config, keys: keys.student,
        ("student.config", "student.cfg_options", "student.imports", "student.checkpoint"),
        "the content of the student's config or checkpoint, or its code",
    ),
    "teacher": Condition(
        lambda config, keys: keys.teacher,
        (
            *("teacher.config", "teacher.cfg_options", "teacher.imports", "teacher.checkpoint"),
            "teacher.schedule",
        ),
        "the content of the teacher's config or checkpoint, its code or its training images",
    ),
    "weights": Condition(lambda config, keys: keys.weights, (), "the weights of trained models"),
    "proxy": Condition(
        lambda config, keys: keys.proxy,
        (
            *("data.train.annotations", "data.train.images", "data.synthetic"),
            *("proxy.train_images", "proxy.val_images", "proxy.seed"),
            *("proxy.train.annotations", "proxy.train.images"),
            *("proxy.val.annotations", "proxy.val.images"),
        ),
        "the content of the annotation file or of the images",
    ),
    "look": Condition(
        lambda config, keys: view(config.data),
        ("data.image_size", "data.teacher_image_size", "data.flip", "data.multi_scale"),
    ),
    "job": Condition(
        lambda config, keys: job_content(config.job) if config.job else None,
        ("job",),
        "the code that job names",
    ),
    "inherit": Condition(lambda config, keys: config.inherit, ("inherit",)),
    "trial": Condition(
        lambda config, keys: config.trial.model_dump(exclude={_SHOWN}),
        tuple(f"trial.{name}" for name in TrialSchedule.model_fields if name != _SHOWN),
    ),
    "filter": Condition(
        lambda config, keys: None if config.search.filter else "off", (), "search.filter"
    ),
    "seed": Condition(lambda config, keys: config.search.seed, ("search.seed",)),
    "version": Condition(lambda config, keys: MEANING, (), "the version of detkds"),
    "torch": Condition(lambda config, keys: minor(torch.__version__), (), "the version of torch"),
    "mmdet": Condition(lambda config, keys: minor(mmdet.__version__), (), "the version of mmdet"),
}


def condition_values(config: SearchConfig, keys: TrialKeys) -> dict[str, str]:
    """The value of each of :data:`CONDITIONS` that is there; a value that is no text is hashed."""
    values = {name: one.value(config, keys) for name, one in CONDITIONS.items()}
    return {
        n: v if isinstance(v, str) else fingerprint(v) for n, v in values.items() if v is not None
    }


def conditions_key(config: SearchConfig, keys: TrialKeys) -> str:
    """The key of :data:`CONDITIONS`. Scores under equal keys compare; none is measured twice."""
    return fingerprint(condition_values(config, keys))


#: Where the config that the store keeps of a search has its :func:`condition_values`.
VALUES = "conditions"


def changed_conditions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two searches' configs, as the store keeps them, in words.

    For each of :data:`CONDITIONS` that differs, these are its settings that do, or else what else
    changes its value. A config that an earlier version stored has no values: there the version has
    changed, and settings may have.
    """
    was, now = before.get(VALUES), after[VALUES]
    changed = []
    for name, one in CONDITIONS.items():
        if was is not None and was.get(name) == now.get(name):
            continue
        settings = [
            path for path in one.settings if _setting(before, path) != _setting(after, path)
        ]
        changed += settings
        if was is not None and not settings:
            values = was.get(name), now.get(name)
            known = not one.settings and None not in values
            changed.append(one.otherwise + (f" ({values[0]}, now {values[1]})" if known else ""))
    return changed if was is not None else [*changed, CONDITIONS["version"].otherwise]


def _setting(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as ``trial.epochs``; None for 0, False, [] and a missing setting.

    A config that an earlier version stored lacks the settings that are newer: they were off.
    """
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value or None
