"""The column ``told`` of the trials becomes ``tell_order``."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _rename("told", "tell_order")


def downgrade() -> None:
    _rename("tell_order", "told")


def _rename(old: str, new: str) -> None:
    with op.batch_alter_table("trials") as table:
        table.drop_constraint(f"uq_trials_search_id_{old}", type_="unique")
        table.alter_column(old, new_column_name=new)
    # A second block: within one, SQLite's copy would silently lack a constraint on the new name.
    with op.batch_alter_table("trials") as table:
        table.create_unique_constraint(f"uq_trials_search_id_{new}", ["search_id", new])
