"""What is shipped: search configs and distiller files, found by name or by path."""

from __future__ import annotations

from pathlib import Path

from ..space import WrongUse, nearest

FOLDER = Path(__file__).parent


def search_config(reference: str) -> Path:
    """The file of a search config: a path, or the name of a shipped one (``quickstart``)."""
    return _find(reference, "search", ".py", "search config")


def distiller_file(reference: str) -> Path:
    """The file of a distiller: a path, or the name of a shipped one (``pkd``)."""
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
