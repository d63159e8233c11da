"""Trials as a pandas DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame


def trial_frame(store: Store, search_id: int | None = None) -> DataFrame:
    """The trials of one search, or of all, a row each: what ``detkds trials --csv`` writes."""
    import pandas

    return pandas.DataFrame(store.trial_records(search_id))
