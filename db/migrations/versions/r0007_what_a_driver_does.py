"""What the driver of a search does now."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("leases") as table:
        table.add_column(sa.Column("doing", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("leases") as table:
        table.drop_column("doing")
