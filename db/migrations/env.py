"""Run by alembic: the connection and the models come with its configuration."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeDecorator


def plain_type(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Write our column types into revisions as the SQL type they stand on.

    A revision must go on meaning the same when the models' types change.
    """
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    render_as_batch=True,  # SQLite changes a table by copying it
    render_item=plain_type,
)
with context.begin_transaction():
    context.run_migrations()
