"""The adaptation costs that a store knows, for pages that show them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from .models import AdaptationCost
from .rows import CostRow
from .store import Store


def costs_between(store: Store, names: Collection[str]) -> list[CostRow]:
    """The costs between models of these names, all on the images that were measured last.

    A store knows models by their keys, and names may mean other models in another search.
    """
    table = AdaptationCost
    query = select(table).where(table.source.in_(names), table.target.in_(names))
    rows = store._all(CostRow, query.order_by(table.id))
    return [row for row in rows if row.data == rows[-1].data]
