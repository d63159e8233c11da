"""Trials as flat records, for CSV files and data frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .rows import TrialRow

_COLUMNS = (
    "number",
    "stage",
    "status",
    "notation",
    "key",
    "score",
    "reason",
    "error",
    "seed",
    "host",
    "device",
    "queued",
    "started",
    "finished",
    "seconds",
    "reused_from",
)


def flatten(named_trials: Iterable[tuple[str, TrialRow]]) -> list[dict[str, Any]]:
    """One flat dict per (search name, trial), all with the same keys in the same order.

    Metrics follow the trial's own columns as ``metrics.NAME``; None where a trial has none.
    """
    named_trials = list(named_trials)
    metrics = dict.fromkeys(name for _, trial in named_trials for name in trial.metrics)
    return [_record(search, trial, metrics) for search, trial in named_trials]


def _record(search: str, trial: TrialRow, metrics: Iterable[str]) -> dict[str, Any]:
    own = {column: getattr(trial, column) for column in _COLUMNS}
    own["status"] = trial.status.value
    return {
        "search": search,
        **own,
        **{f"metrics.{name}": trial.metrics.get(name) for name in metrics},
    }
