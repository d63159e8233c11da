"""detkds: search distillation losses for object detectors, and train students with them.

From Python: ``detkds.search`` runs a search, ``detkds.trials`` reads its trials as a DataFrame, and
``detkds.load_distiller`` a distiller file. Nothing heavy is imported before it is used.
"""

from typing import Any

__version__ = "0.4.0"
__all__ = ["load_distiller", "search", "trials"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "search":
        return import_module(".search", __name__)
    if name in __all__:
        return getattr(import_module(".search.api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
