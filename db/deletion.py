"""Deleting a search from the store, without what other searches have of it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from .models import Search, Training, Trial
from .rows import SCORED
from .store import Store


@dataclass(frozen=True)
class Contents:
    """What the store holds of a search.

    ``scores``: those that were measured in its own trials. ``copied``: how many of these other
    searches have copied.
    """

    trials: int
    trainings: int
    scores: int
    copied: int


def contents(store: Store, search_id: int) -> Contents:
    """What :func:`delete_search` deletes, and how many of its scores stay with other searches."""

    def read(session: Session) -> Contents:
        def count(model: type[Trial] | type[Training], *conditions: object) -> int:
            query = select(func.count()).select_from(model).filter_by(search_id=search_id)
            return session.scalar(query.where(*conditions)) or 0  # type: ignore[arg-type]

        copied = select(Trial.reused_from).where(Trial.search_id != search_id)
        own = Trial.status.in_(SCORED), Trial.reused_from.is_(None)
        known = Trial.id.in_(copied.where(Trial.reused_from.is_not(None)))
        return Contents(
            count(Trial), count(Training), count(Trial, *own), count(Trial, *own, known)
        )

    return store._transactions.read(read)


def delete_search(store: Store, search_id: int) -> None:
    """Delete a search with its trials and the rows of its trainings.

    A trial of another search that has copied an outcome keeps it: from then on the first copy is
    the original of the others, and later searches find it.
    """

    def write(session: Session) -> None:
        own = select(Trial.id).filter_by(search_id=search_id)
        copies = select(Trial).where(Trial.search_id != search_id, Trial.reused_from.in_(own))
        first: dict[int | None, Trial] = {}
        for copy in session.scalars(copies.order_by(Trial.id)).all():
            original = first.setdefault(copy.reused_from, copy)
            copy.reused_from = None if original is copy else original.id
        session.flush()
        session.execute(update(Trial).filter_by(search_id=search_id).values(reused_from=None))
        for model in (Trial, Training):
            session.execute(delete(model).filter_by(search_id=search_id))
        session.execute(delete(Search).filter_by(id=search_id))

    store._transactions.write(write)
