"""The configs and distiller files that come with detkds, found by name or by path."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..space import WrongUse, nearest

FOLDER = Path(__file__).parent


def search_config(reference: str) -> tuple[Path, dict[str, Any]]:
    """The file of a search config, and the values to merge into it.

    ``reference``: a path, the name of a shipped config (``quickstart``), or
    ``coco/STUDENT__TEACHER`` for a pair of ``coco/pairs.json``. Raises :class:`WrongUse`, with the
    nearest name, if there is no such config or pair.
    """
    folder, _, name = reference.partition("/")
    if folder == "coco" and not Path(reference).is_file():
        return FOLDER / "coco" / "base.py", _coco_pair(name)
    return _find(reference, "search", ".py", "search config"), {}


@cache
def coco_pairs() -> dict[str, dict[str, Any]]:
    """The student-teacher pairs of the papers, by name (``STUDENT__TEACHER``).

    Each pair is a dictionary. ``student`` and ``teacher`` are models: ``config``; ``cfg_options``;
    ``checkpoint``, if the model zoo has the model; ``optim_wrapper``, if the model does not train
    by base.py's. ``distiller`` names the distiller that was found for such pairs; ``source`` lists
    the papers' tables with the pair. ``data`` is there if the paper uses another image size than
    COCO's usual one.
    """
    document = json.loads((FOLDER / "coco" / "pairs.json").read_text("utf-8"))
    models = document["models"]
    return {
        f"{pair['student']}__{pair['teacher']}": {
            **pair,
            "student": models[pair["student"]],
            "teacher": models[pair["teacher"]],
        }
        for pair in document["pairs"]
    }


def _coco_pair(name: str) -> dict[str, Any]:
    """The sections of a search config that a pair sets.

    The student's checkpoint is left out: the student starts from its backbone's weights alone.
    """
    pairs = coco_pairs()
    if name not in pairs:
        raise WrongUse(f"coco/{name}: no such pair: {nearest(name, pairs)}")
    pair = pairs[name]
    student, teacher = pair["student"], pair["teacher"]
    schedule = {"optim_wrapper": student.get("optim_wrapper", {})}
    return {
        "student": {k: student[k] for k in ("config", "cfg_options") if k in student},
        "teacher": {k: teacher[k] for k in ("config", "cfg_options", "checkpoint") if k in teacher},
        "data": pair.get("data", {}),
        "trial": schedule,
        "final": schedule,
    }


def distiller_file(reference: str) -> Path:
    """The file of a distiller. ``reference``: a path, or the name of a shipped distiller (``pkd``).

    Raises :class:`WrongUse`, with the nearest name, if there is no such file.
    """
    return _find(reference, "distillers", ".json", "distiller")


def _find(reference: str, folder: str, suffix: str, what: str) -> Path:
    if Path(reference).is_file():
        return Path(reference)
    shipped = FOLDER / folder / f"{reference}{suffix}"
    if shipped.is_file():
        return shipped
    names = sorted(path.stem for path in shipped.parent.glob(f"*{suffix}"))
    raise WrongUse(
        f"{reference}: no such {what}; give a path or the name of a shipped one: "
        + nearest(Path(reference).stem, names)
    )
