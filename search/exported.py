"""The distiller that a search leaves, with the note of where it comes from."""

from __future__ import annotations

from dataclasses import replace

from .. import __version__
from ..db import SearchRow, TrialRow
from ..space import Distiller


def exported(best: TrialRow, search: SearchRow) -> Distiller:
    """The best trial's distiller, without terms of weight 0, and where it comes from."""
    config = search.config
    proxy = config["proxy"]
    provenance = {
        "search": search.name,
        "trial": best.number,
        "student": _model_name(config["student"]),
        "teacher": config["teacher"] and _model_name(config["teacher"]),
        "proxy": {
            "ap": best.score,
            "train_images": proxy["train_images"],
            "val_images": proxy["val_images"],
        },
        "seed": search.seed,
        "version": __version__,
    }
    return replace(
        best.distiller, terms=best.distiller.active, name=search.name, provenance=provenance
    )


def _model_name(model: dict) -> str:
    config = model["config"]
    return config if isinstance(config, str) else str(config.get("type"))
