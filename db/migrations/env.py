"""Alembic runs this file; the configuration holds the connection and the models' metadata."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeDecorator


def plain_type(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Write a column type of the models into a revision as the SQL type that implements it.

    A revision must not change its meaning when the models' types change.
    """
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    render_as_batch=True,  # on SQLite a table is changed by copying it
    render_item=plain_type,
)
with context.begin_transaction():
    context.run_migrations()
