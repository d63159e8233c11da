"""Who runs a search, and who wrote a search, a trial or a training."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HOLDERS = ("searches", "trials", "trainings")


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token", sa.String(16), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("process_key", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    for name in _HOLDERS:
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("holder", sa.Text(), nullable=True))


def downgrade() -> None:
    for name in _HOLDERS:
        with op.batch_alter_table(name) as table:
            table.drop_column("holder")
    op.drop_table("leases")
