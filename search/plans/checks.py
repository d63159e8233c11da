"""What a config comes to, checked: data, models, space, proxy, distillers. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...configs import distiller_file
from ...data import CLASSES, class_names, read_document, read_split, shapes_files
from ...data.datasets import repeats
from ...data.inspection import Opened
from ...data.proxy import check_disjoint, check_sizes
from ...detectors import (
    Signature,
    build_detector,
    class_options,
    configured,
    has_masks,
    load_checkpoint,
    load_weights,
    num_classes,
    signature,
    without_pretrained,
)
from ...distillers import available_knowledge, check_pair, excluded, mismatch
from ...settings import BEST_PRESET, FOUND, PROGRESSIVE, Model, Schedule, SearchConfig, Split
from ...space import SHARE, STEPWISE, Distiller, SearchSpace, WrongUse
from . import keys
from .jobs import check_pipeline, check_val_classes, job_classes

#: The signatures of a student and of its teacher, if it has one.
Pair = tuple[Signature, Signature | None]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data of a config: class names, splits, and the keys of the splits that students see."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split | None
    train_key: str
    test_key: str | None
    #: Images that an epoch of the training split shows.
    images: int


def read_data(config: SearchConfig, folder: Path, opened: Opened) -> Splits:
    """The splits of a config, checked. A synthetic set will be drawn into ``folder`` later."""
    data = config.data
    if data.synthetic is not None:
        files = shapes_files(folder / "data")
        train, val, test = (
            Split(annotations=str(path), images=str(files.images))
            for path in (files.train, files.val, files.test)
        )
        key = keys.synthetic_key(data.synthetic)
        return Splits(
            classes=CLASSES,
            train=train,
            val=val,
            test=test,
            train_key=key,
            test_key=key,
            images=data.synthetic.train,
        )
    assert data.train is not None
    document = read_split(data.train)
    opened.look(data.train, document, training=True)
    own = "train_dataloader" in config.job
    classes = job_classes(config.job, data.train, document) if own else class_names(document)
    if own:
        check_pipeline(config.job, document, data.train, classes)
    train_key, test_key = keys.split_key(data.train, document), None
    images = len({annotation["image_id"] for annotation in document["annotations"]})
    if own:
        images = len(document["images"]) * repeats(config.job["train_dataloader"]["dataset"])
    for split in (data.val, data.test):
        if split is None:
            continue
        document = read_split(split)
        opened.look(split, document, training=False)
        there = class_names(document)
        if own:
            check_val_classes(config.job, split, document, classes)
        elif there != classes:
            raise WrongUse(
                f"{split.annotations}: its classes {list(there)} differ from {list(classes)} "
                f"of {data.train.annotations}"
            )
        check_disjoint(data.train, split)
        if split is data.test:
            test_key = keys.split_key(split, document)
    if data.val is not None and data.test is not None:
        check_disjoint(data.val, data.test)
    return Splits(
        classes=classes,
        train=data.train,
        val=data.val,
        test=data.test,
        train_key=train_key,
        test_key=test_key,
        images=images,
    )


def read_signatures(config: SearchConfig, classes: tuple[str, ...]) -> Pair:
    """The signatures of student and teacher.

    A student that sees images of another size than its teacher shares features alone.
    """
    student = read_signature("student", config.student, classes)
    if config.data.student_scale != 1:
        student = student.features_only
    if config.teacher is None and config.inherit:
        raise WrongUse("there is no teacher to inherit from; give one, or leave it out", "inherit")
    if config.teacher is None:
        return student, None
    return student, read_signature("teacher", config.teacher, classes)


def read_signature(name: str, model: Model, classes: tuple[str, ...]) -> Signature:
    """The signature of a model, which is built with its weights if it has a checkpoint.

    ``name``: the section of the config. Raises :class:`WrongUse` if the model can't be built, if
    its checkpoint does not fit, or if its classes are not those of the data.
    """
    built = build_detector(without_pretrained(configured(model)), name)
    there = num_classes(built)
    if there is not None and there != len(classes):
        keys_of = class_options(configured(model)) or ["model.bbox_head.num_classes"]
        options = " ".join(f"{name}.cfg_options.{key}={len(classes)}" for key in keys_of)
        raise WrongUse(
            f"its head has {there} classes and the data have {len(classes)} "
            f"({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}): set {options}",
            name,
        )
    if model.checkpoint is not None:
        load_weights(built, model.checkpoint, trust=model.trust_checkpoint)
        _check_class_names(name, model, classes)
    return signature(built, name)


def check_outlines(config: SearchConfig, splits: Iterable[Split | None]) -> None:
    """Raise :class:`WrongUse` if a student with a mask head lacks the objects' outlines."""
    if not has_masks(configured(config.student)):
        return
    if config.data.synthetic is not None:
        raise WrongUse("it has a mask head, and the synthetic set has boxes only", "student")
    for split in splits:
        if split is None:
            continue
        for annotation in read_document(split)["annotations"]:
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


def searched_space(config: SearchConfig, signatures: Pair) -> SearchSpace:
    """The space of what the pair can share, without the options that the pair can't use.

    Without a teacher, the space is ``label`` of the extended space, whatever the config asks for.
    ``stepwise`` weights need milestones of the learning rate, in trials and in final trainings.
    """
    space = SearchSpace.preset(config.search.space if config.teacher else "extended")
    shared = available_knowledge(*signatures)
    available = [name for name in space.knowledge if name in shared]
    asked = config.search.knowledge or [n for n in available if space.options[n].default]
    for name in asked:
        if name not in space.knowledge:
            raise WrongUse(f"'{name}' needs search.space=extended", "search.knowledge")
        if name not in available:
            raise WrongUse(
                f"the pair has no '{name}': {_why_not(name, signatures)}; "
                f"use {', '.join(available)}",
                "search.knowledge",
            )
    if not asked:
        faults = [mismatch(n, *signatures) for n in space.knowledge if not space.options[n].teacher]
        raise WrongUse(f"teacher: there is none, and {faults[0]}; give one")
    space = space.only(asked)
    schedules: list[Schedule] = [config.trial, *([config.final] if config.final else [])]
    steps = [] if all(map(has_milestones, schedules)) else [STEPWISE]
    for name in asked:
        space = space.without(name, [*excluded(name, *signatures), *steps])
    return space.in_shares() if config.search.weight_unit == SHARE else space


def _why_not(knowledge: str, signatures: Pair) -> str | None:
    student, teacher = signatures
    return "there is no teacher" if teacher is None else mismatch(knowledge, student, teacher)


def has_milestones(schedule: Schedule) -> bool:
    """Whether the learning rate reaches a milestone within the epochs.

    Milestones that are counted in iterations are taken to be reached.
    """
    for scheduler in schedule.param_scheduler:
        first = min(scheduler.get("milestones") or [math.inf]) + scheduler.get("begin", 0)
        last = schedule.epochs if scheduler.get("by_epoch", True) else math.inf
        if first < last and not str(scheduler.get("type")).endswith("Momentum"):
            return True
    return False


def check_distiller(
    distiller: Distiller, signatures: Pair, schedule: Schedule, setting: str
) -> None:
    """Raise :class:`WrongUse` if this pair can't train with a distiller under ``schedule``.

    ``setting``: the setting that names the distiller.
    """
    try:
        check_pair(distiller, *signatures)
    except WrongUse as error:
        raise WrongUse(f"{distiller.name or 'the distiller'}: {error}", setting) from None
    if distiller.stepwise and not has_milestones(schedule):
        raise WrongUse(
            f"{distiller.name or 'the distiller'} has a stepwise weight, which changes at "
            f"milestones of the learning rate, and within {schedule.epochs} epochs there are none: "
            "use MultiStepLR, or a constant weight",
            "final.param_scheduler",
        )


def proxy_splits(
    config: SearchConfig, train: Split, folder: Path, data_key: str
) -> tuple[tuple[Split, Split], str]:
    """The training and the validation split of the proxy, and the key of both.

    Splits that are drawn from ``train``, the split of ``data_key``, lie in a folder that is named
    after the proxy's key.
    """
    proxy = config.proxy
    if proxy.train is not None and proxy.val is not None:
        given = (proxy.train, proxy.val)
        key = keys.fingerprint([keys.split_key(split, read_split(split)) for split in given])
        check_disjoint(proxy.train, proxy.val)
        return given, key
    if config.data.synthetic is not None:
        images = config.data.synthetic.train
    else:
        images = len(read_document(train)["images"])
    check_sizes(proxy.train_images, proxy.val_images, images)
    key = keys.proxy_key(proxy, data_key)
    drawn = folder / f"proxy-{key}"
    first, second = (
        Split(annotations=str(drawn / f"{name}.json"), images=train.images)
        for name in ("train", "val")
    )
    first.parts = [
        Split(annotations=str(drawn / f"train-{number}.json"), images=part.images)
        for number, part in enumerate(train.parts)
    ]
    return (first, second), key


def compared_distillers(config: SearchConfig, signatures: Pair) -> dict[str, Distiller | None]:
    """The rows of the final table, by name, each with its hand-made distiller.

    ``none``, ``found``, ``best_preset`` and ``progressive`` have None: no distiller, or one that
    the search decides on.
    """
    rows: dict[str, Distiller | None] = {}
    for reference in config.final.compare if config.final else []:
        if reference in ("none", FOUND, BEST_PRESET, PROGRESSIVE):
            rows[reference] = None
            continue
        name = Path(reference).stem
        distiller = replace(Distiller.from_json(distiller_file(reference)), name=name)
        assert config.final is not None
        check_distiller(distiller, signatures, config.final, "final.compare")
        rows[name] = distiller
    return rows
