"""Searches get the column ``confirmation``: which trial is exported and why."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("searches") as table:
        table.add_column(sa.Column("confirmation", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("searches") as table:
        table.drop_column("confirmation")
