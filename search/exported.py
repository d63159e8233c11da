"""The distiller that a search leaves, with the note of where it comes from."""

from __future__ import annotations

from dataclasses import replace

from .. import __version__
from ..db import SearchRow, TrialRow
from ..space import Distiller


def exported(best: TrialRow, search: SearchRow) -> Distiller:
    """The best trial's distiller and where it comes from.

    The distiller has no terms of weight 0, and the plain weights that the trial trained with.
    """
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
    assert best.outcome is not None
    plain = best.distiller.with_plain_weights(best.outcome.plain_weights)
    return replace(plain, terms=plain.active, name=search.name, provenance=provenance)


def _model_name(model: dict) -> str:
    config = model["config"]
    return config if isinstance(config, str) else str(config.get("type"))
