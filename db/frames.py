"""Trials as a pandas DataFrame, and full trainings as flat records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .rows import flatten
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame


def trial_frame(store: Store, search_id: int | None = None) -> DataFrame:
    """The trials of one search, or of all, a row each: what ``detkds trials --csv`` writes."""
    import pandas

    return pandas.DataFrame(store.trial_records(search_id))


def training_records(store: Store, search_id: int | None = None) -> list[dict[str, Any]]:
    """The full trainings of one search, or of all, as flat dicts; see :func:`~.rows.flatten`.

    A training of `detkds train` is of no search: its ``search`` is "".
    """
    trainings = store.trainings(search_id)
    names = {search.id: search.name for search in store.searches()}
    return flatten((names.get(row.search_id or 0, ""), row) for row in trainings)
