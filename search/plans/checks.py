"""The checks before a search: data, models, knowledge, proxy. They read and write nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...configs import distiller_file
from ...data import CLASSES, class_names, read_annotations, read_split, shapes_files
from ...data.proxy import check_disjoint, check_sizes
from ...detectors import (
    Signature,
    build_detector,
    configured,
    has_masks,
    load_checkpoint,
    load_weights,
    num_classes,
    signature,
    without_pretrained,
)
from ...distillers import available_knowledge, check_pair, excluded, mismatch
from ...settings import PROGRESSIVE, Model, Schedule, SearchConfig, Split
from ...space import STEPWISE, Distiller, SearchSpace, WrongUse

#: The signatures of a student and of its teacher, if it has one.
Pair = tuple[Signature, Signature | None]


def fingerprint(content: Any) -> str:
    """A stable hash of JSON content: 16 hex digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: str | Path) -> str:
    """Of a file's content; of an address its text, since the model zoo's names hold a hash."""
    if "://" in str(path):
        return fingerprint(str(path))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


def check_data(
    config: SearchConfig, folder: Path
) -> tuple[tuple[str, ...], Split, Split | None, str]:
    """Class names, the splits, and a hash of what they hold."""
    data = config.data
    if data.synthetic is not None:
        files = shapes_files(folder / "data")
        train, test = (
            Split(annotations=str(path), images=str(files.images))
            for path in (files.train, files.test)
        )
        return CLASSES, train, test, fingerprint({"synthetic": data.synthetic.model_dump()})
    assert data.train is not None
    document = read_split(data.train)
    if not document["annotations"]:
        raise WrongUse(f"{data.train.annotations}: no image has a box: there is nothing to learn")
    classes = class_names(document)
    if data.test is not None:
        there = class_names(read_split(data.test))
        if there != classes:
            raise WrongUse(
                f"{data.test.annotations}: its classes {list(there)} differ from {list(classes)} "
                f"of {data.train.annotations}"
            )
        check_disjoint(data.train.annotations, data.test.annotations)
    return classes, data.train, data.test, file_fingerprint(data.train.annotations)


def check_models(config: SearchConfig, classes: tuple[str, ...]) -> Pair:
    """The signatures of student and teacher. Seen at two sizes, their responses can't line up."""
    student = check_model("student", config.student, classes)
    if config.data.student_scale != 1:
        student = student.features_only
    if config.teacher is None and config.inherit:
        raise WrongUse("inherit: there is no teacher to inherit from; give one, or leave it out")
    if config.teacher is None:
        return student, None
    return student, check_model("teacher", config.teacher, classes)


def check_model(name: str, model: Model, classes: tuple[str, ...]) -> Signature:
    """Build it, load its weights if it has some, compare its classes with the data's.

    ``name``: its section of the config.
    """
    built = build_detector(without_pretrained(configured(model)), name)
    there = num_classes(built)
    if there is not None and there != len(classes):
        raise WrongUse(
            f"{name}: its head has {there} classes and the data have {len(classes)} "
            f"({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}): set "
            f"{name}.cfg_options.'model.bbox_head.num_classes' to {len(classes)}"
        )
    if model.checkpoint is not None:
        load_weights(built, model.checkpoint, trust=model.trust_checkpoint)
        _check_class_names(name, model, classes)
    return signature(built, name)


def check_outlines(config: SearchConfig, splits: Iterable[Split | None]) -> None:
    """A student with a mask head needs the objects' outlines."""
    if not has_masks(configured(config.student)):
        return
    if config.data.synthetic is not None:
        raise WrongUse("student: it has a mask head, and the synthetic set has boxes only")
    for split in splits:
        if split is None:
            continue
        for annotation in read_annotations(split.annotations)["annotations"]:
            if not annotation.get("segmentation"):
                raise WrongUse(
                    f"{split.annotations}: annotation {annotation['id']} has no segmentation, "
                    "which a student with a mask head needs"
                )


def _check_class_names(name: str, model: Model, classes: tuple[str, ...]) -> None:
    assert model.checkpoint is not None
    meta = load_checkpoint(model.checkpoint, trust=model.trust_checkpoint).get("meta") or {}
    names = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    if names is not None and tuple(names) != classes:
        raise WrongUse(
            f"{model.checkpoint}: the {name} was trained for classes {list(names)[:5]}, the data "
            f"have {list(classes)[:5]}: they must be the same in the same order"
        )


def check_knowledge(config: SearchConfig, signatures: Pair) -> SearchSpace:
    """The space that is searched: what the pair can share, without the options it has no use for.

    Without a teacher that is ``label`` of the extended space, whichever is asked for. ``stepwise``
    weights have no use unless the learning rate has milestones in trials and final trainings.
    """
    space = SearchSpace.preset(config.search.space if config.teacher else "extended")
    shared = available_knowledge(*signatures)
    available = [name for name in space.knowledge if name in shared]
    asked = config.search.knowledge or available
    for name in asked:
        if name not in space.knowledge:
            raise WrongUse(f"search.knowledge: '{name}' needs search.space=extended")
        if name not in available:
            raise WrongUse(
                f"search.knowledge: the pair has no '{name}': {_why_not(name, signatures)}; "
                f"use {', '.join(available)}"
            )
    if not asked:
        faults = [mismatch(n, *signatures) for n in space.knowledge if not space.options[n].teacher]
        raise WrongUse(f"teacher: there is none, and {faults[0]}; give one")
    space = space.only(asked)
    schedules: list[Schedule] = [config.trial, *([config.final] if config.final else [])]
    steps = [] if all(map(has_milestones, schedules)) else [STEPWISE]
    for name in asked:
        space = space.without(name, [*excluded(name, *signatures), *steps])
    return space


def _why_not(knowledge: str, signatures: Pair) -> str | None:
    student, teacher = signatures
    return "there is no teacher" if teacher is None else mismatch(knowledge, student, teacher)


def has_milestones(schedule: Schedule) -> bool:
    """Whether the learning rate meets one; of those counted in iterations, whether there are."""
    for scheduler in schedule.param_scheduler:
        first = min(scheduler.get("milestones") or [math.inf]) + scheduler.get("begin", 0)
        last = schedule.epochs if scheduler.get("by_epoch", True) else math.inf
        if first < last and not str(scheduler.get("type")).endswith("Momentum"):
            return True
    return False


def check_distiller(distiller: Distiller, signatures: Pair, schedule: Schedule, where: str) -> None:
    """A distiller that this pair can train with, under the schedule of ``final``.

    ``where``: the option that named it.
    """
    try:
        check_pair(distiller, *signatures)
    except WrongUse as error:
        raise WrongUse(f"{where}: {error}") from None
    if distiller.stepwise and not has_milestones(schedule):
        raise WrongUse(
            f"final.param_scheduler: {distiller.name or 'the distiller'} has a stepwise weight,"
            f" which changes at milestones of the learning rate, and within {schedule.epochs} "
            "epochs there are none: use MultiStepLR, or a constant weight"
        )


def check_proxy(
    config: SearchConfig, train: Split, folder: Path, data_key: str
) -> tuple[tuple[Split, Split], str]:
    proxy = config.proxy
    if proxy.train is not None and proxy.val is not None:
        for split in (proxy.train, proxy.val):
            read_split(split)
        check_disjoint(proxy.train.annotations, proxy.val.annotations)
        return (proxy.train, proxy.val), fingerprint(
            [file_fingerprint(s.annotations) for s in (proxy.train, proxy.val)]
        )
    if config.data.synthetic is not None:
        check_sizes(proxy.train_images, proxy.val_images, config.data.synthetic.train)
    else:
        document = read_annotations(train.annotations)
        check_sizes(proxy.train_images, proxy.val_images, len(document["images"]))
    key = fingerprint([data_key, proxy.train_images, proxy.val_images, proxy.seed])
    names = [folder / f"proxy-{key}" / f"{split}.json" for split in ("train", "val")]
    first, second = (Split(annotations=str(name), images=train.images) for name in names)
    return (first, second), key


def check_compare(config: SearchConfig, signatures: Pair) -> dict[str, Distiller | None]:
    """The hand-made distillers of the final table, by the name they get there."""
    compare: dict[str, Distiller | None] = {}
    for reference in config.final.compare if config.final else []:
        if reference in ("none", "found", PROGRESSIVE):
            compare[reference] = None
            continue
        distiller = Distiller.from_json(distiller_file(reference))
        assert config.final is not None
        check_distiller(distiller, signatures, config.final, f"final.compare: {reference}")
        compare[Path(reference).stem] = distiller
    return compare


def model_key(model: Model) -> str:
    """What a model is, whatever file it comes from."""
    config = configured(model).to_dict()
    start = file_fingerprint(model.checkpoint) if model.checkpoint else None
    return fingerprint([config, start])
