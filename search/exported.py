"""The distiller that a search leaves and those it started from, with where they come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .. import __version__
from ..db import SearchRow, Store, TrialRow
from ..space import Distiller

#: Characters of the name of a distiller that the search started from.
MAX_NAME = 60


def best_trial(store: Store, search: SearchRow) -> TrialRow | None:
    """The trial whose distiller is exported: the winner of the confirmation, if there was one.

    Before a confirmation, it is the trial of the highest score; None: no trial has completed.
    """
    if search.confirmation is not None:
        number = search.confirmation["trial"]
        return next(trial for trial in store.trials(search.id) if trial.number == number)
    return store.best(search.id)


def unlearned(best: TrialRow) -> str | None:
    """That nothing was learned and what to look at, if the best trial has an AP of 0."""
    if best.score:
        return None
    return (
        "nothing was learned: no trial has an AP above 0, so no distiller is better than another. "
        "Look at the teacher's own AP, at images and boxes (detkds check), at the learning rate "
        "(trial.optim_wrapper) and at the length of a trial (trial.epochs, proxy.train_images)"
    )


def exported(best: TrialRow, search: SearchRow) -> Distiller:
    """What the best trial trained with, and where it comes from."""
    config = search.config
    proxy = config["proxy"]
    provenance: dict[str, Any] = {
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
    if search.confirmation is not None:
        provenance["confirmation"] = search.confirmation
    return replace(trained_distiller(best), name=search.name, provenance=provenance)


def trained_distiller(trial: TrialRow) -> Distiller:
    """What a completed trial trained with: plain weights, and no terms of weight 0."""
    assert trial.outcome is not None
    plain = trial.distiller.with_plain_weights(trial.outcome.plain_weights)
    return replace(plain, terms=plain.active)


def started_from(start: Sequence[Distiller]) -> dict[str, str]:
    """The names of the distillers that a search started from, by key.

    Trainings, and so their folders, have these names: they are short, without spaces and slashes,
    and each is another.
    """
    names: dict[str, str] = {}
    for number, one in enumerate(start):
        name = re.sub(r"[^\w.+-]+", "_", one.name or "start")[:MAX_NAME]
        taken = one.name is None or name in names.values()
        names[one.key] = f"{name}_{number}" if taken else name
    return names


def _model_name(model: dict) -> str:
    config = model["config"]
    return config if isinstance(config, str) else str(config.get("type"))
