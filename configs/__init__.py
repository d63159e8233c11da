"""The configs and distiller files that come with detkds, found by name or by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..space import WrongUse, nearest
from .pairs import coco_models, coco_pairs, pair_layers, protocols
from .paper_rows import (
    DATA,
    PAPER,
    Paper,
    Row,
    Table,
    paper_row,
    papers,
    records,
    row_layers,
    selected,
)

FOLDER = Path(__file__).parent

__all__ = [
    "DATA",
    "PAPER",
    "Paper",
    "Row",
    "Table",
    "coco_models",
    "coco_pairs",
    "distiller_file",
    "distiller_names",
    "paper_row",
    "papers",
    "protocols",
    "records",
    "search_config",
    "selected",
]


def search_config(reference: str) -> tuple[Path, list[dict[str, Any]]]:
    """The file of a search config, and the values to merge into it, first to last.

    ``reference``: a path, the name of a shipped config (``quickstart``), ``coco/STUDENT__TEACHER``
    for a pair of ``coco/pairs.json`` (with ``@PROTOCOL`` for another protocol than the pair's own),
    or ``paper:PAPER/TABLE/ROW``. Raises :class:`WrongUse`, with the nearest name, if there is no
    such config.
    """
    base = FOLDER / "coco" / "base.py"
    if reference.startswith(PAPER):
        return base, row_layers(paper_row(reference))
    folder, _, name = reference.partition("/")
    if folder == "coco" and not Path(reference).is_file():
        return base, pair_layers(name)
    return _find(reference, "search", ".py", "search config"), []


def distiller_file(reference: str) -> Path:
    """The file of a distiller. ``reference``: a path, or the name of a shipped distiller (``pkd``).

    Raises :class:`WrongUse`, with the nearest name, if there is no such file.
    """
    return _find(reference, "distillers", ".json", "distiller")


def distiller_names() -> list[str]:
    """The names of the shipped distillers."""
    return _shipped("distillers", ".json")


def _shipped(folder: str, suffix: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / folder).glob(f"*{suffix}"))


def _find(reference: str, folder: str, suffix: str, what: str) -> Path:
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    shipped = FOLDER / folder / f"{reference}{suffix}"
    if shipped.is_file():
        return shipped
    names = _shipped(folder, suffix)
    if path.suffix or len(path.parts) > 1:
        raise WrongUse(
            f"{reference}: no such {what} file; give a path that is there, or the name of a "
            f"shipped one: {', '.join(names)}"
        )
    raise WrongUse(
        f"{reference}: no such {what}; give a path or the name of a shipped one: "
        + nearest(Path(reference).stem, names)
    )
