"""The papers' pairs of detectors on COCO, and the protocols that the papers train them by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..space import WrongUse, nearest

FOLDER = Path(__file__).parent / "coco"

#: What a search config takes of a student or a teacher.
_MODEL = ("config", "cfg_options", "checkpoint")
#: What the training of a model sets of a schedule.
_SCHEDULE = ("optim_wrapper", "param_scheduler")


@cache
def read_json(name: str) -> dict[str, Any]:
    """A document of ``configs/coco``."""
    return json.loads((FOLDER / name).read_text("utf-8"))


@cache
def coco_models() -> dict[str, dict[str, Any]]:
    """The detectors of the papers, by name.

    A model has ``config`` and ``cfg_options``, and ``checkpoint``, if the model zoo has the model,
    or ``epochs``, if a paper trains it: as a teacher it is then trained first. ``optim_wrapper``,
    ``param_scheduler`` (for base.py's epochs) and ``data`` say where its training differs from
    base.py's.
    """
    return read_json("pairs.json")["models"]


@cache
def coco_pairs() -> dict[str, dict[str, Any]]:
    """The student-teacher pairs of the papers, by name (``STUDENT__TEACHER``).

    Each pair is a dictionary. ``student`` and ``teacher`` are models (see :func:`coco_models`).
    ``protocol`` names the protocol of the first paper in ``source``, which lists the papers' tables
    with the pair; ``distiller`` names that paper's distiller for such pairs. ``data`` is there if
    the teacher looks at larger images than the student.
    """
    models = coco_models()
    return {
        f"{pair['student']}__{pair['teacher']}": {
            **pair,
            "student": models[pair["student"]],
            "teacher": models[pair["teacher"]],
        }
        for pair in read_json("pairs.json")["pairs"]
    }


@cache
def protocols() -> dict[str, dict[str, Any]]:
    """How each paper trains, by name.

    ``config`` is what the protocol changes in base.py, ``note`` says it in words, ``source`` where
    the paper does. ``student_checkpoint``: the student starts from weights of its own, not from its
    backbone's alone. ``teacher``: whether there is one.
    """
    document = read_json("protocols.json")
    return {name: _with_base(document, name) for name in document}


def _with_base(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A protocol with what it does like another protocol."""
    own = document[name]
    base = _with_base(document, own["like"]) if "like" in own else {}
    layers = [*base.get("layers", []), own.get("config", {})]
    return {"student_checkpoint": False, "teacher": True, **base, **own, "layers": layers}


def pair_layers(reference: str) -> list[dict[str, Any]]:
    """What ``STUDENT__TEACHER`` or ``STUDENT__TEACHER@PROTOCOL`` sets in base.py, first to last.

    A protocol without teacher takes a student alone, ``STUDENT@PROTOCOL``. Raises
    :class:`WrongUse`, with the nearest name, for a pair or a protocol that does not exist.
    """
    name, _, chosen = reference.partition("@")
    where = f"coco/{reference}"
    if chosen and chosen not in protocols():
        raise WrongUse(f"{where}: no such protocol: {nearest(chosen, protocols())}")
    if chosen and not protocols()[chosen]["teacher"]:
        if name not in coco_models():
            student = name.partition("__")[0]
            right = nearest(student, coco_models())
            if student in coco_models():
                right = f"write coco/{student}@{chosen}"
            raise WrongUse(f"{where}: protocol '{chosen}' has a student and no teacher: {right}")
        pair: dict[str, Any] = {"student": coco_models()[name], "teacher": None}
    elif name in coco_pairs():
        pair = coco_pairs()[name]
    else:
        raise WrongUse(f"{where}: no such pair: {nearest(name, coco_pairs())}")
    protocol = protocols()[chosen or pair["protocol"]]
    student = name.partition("__")[0]
    # First the milestones, which the protocol's epochs move; last what the model's optimizer needs.
    return [
        _rate_layer(pair["student"]),
        *protocol["layers"],
        _pair_layer(student, pair, protocol),
        {section: _own(pair["student"], "optim_wrapper") for section in ("trial", "final")},
    ]


def _own(model: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {key: model[key]} if key in model else {}


def _rate_layer(student: Mapping[str, Any]) -> dict[str, Any]:
    """The student's own schedulers; a trial's single epoch has the warm-up alone."""
    schedulers = student.get("param_scheduler")
    if schedulers is None:
        return {}
    warmup = [one for one in schedulers if not one.get("by_epoch", True)]
    return {"trial": {"param_scheduler": warmup}, "final": {"param_scheduler": schedulers}}


def _pair_layer(name: str, pair: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What the models of a pair set. ``name``: the student's."""
    student, teacher = pair["student"], pair["teacher"]
    start = dict(model_section(student))
    checkpoint = start.pop("checkpoint", f"data/checkpoints/{name}.pth")
    if protocol["student_checkpoint"]:
        start["checkpoint"] = checkpoint
    return {
        "student": start,
        "teacher": None if teacher is None else {**model_section(teacher), **trained([teacher])},
        "data": {**student.get("data", {}), **pair.get("data", {})},
    }


def model_section(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section of a search config that a model makes."""
    return {key: model[key] for key in _MODEL if key in model}


def trained(teachers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What teachers without weights change in base.py's ``teacher``, by which they are trained.

    There is no schedule if one of them is a model that no paper trains.
    """
    lacking = [model for model in teachers if "checkpoint" not in model]
    if any("epochs" not in model for model in lacking):
        return {"schedule": None}
    own = [{k: model[k] for k in ("epochs", *_SCHEDULE) if k in model} for model in lacking]
    return {"schedule": own[0]} if own else {}
