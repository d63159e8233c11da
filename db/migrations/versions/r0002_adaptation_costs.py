"""Adaptation costs between models."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adaptation_costs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("data", sa.String(16), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("source_key", sa.String(16), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("target_key", sa.String(16), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("fit", sa.Double(), nullable=False),
        sa.Column("levels", sa.Text(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adaptation_costs"),
        sa.UniqueConstraint(
            "data",
            "source_key",
            "target_key",
            name="uq_adaptation_costs_data_source_key_target_key",
        ),
    )


def downgrade() -> None:
    op.drop_table("adaptation_costs")
