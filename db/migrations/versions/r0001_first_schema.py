"""First schema: searches, trials and trainings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished", sa.DateTime(timezone=True)),
        sa.Column("host", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
        sa.UniqueConstraint("name", name="uq_searches_name"),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("asked_after", sa.Integer(), nullable=False),
        sa.Column("told", sa.Integer()),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("distiller", sa.Text(), nullable=False),
        sa.Column("notation", sa.Text(), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("queued", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reused_from", sa.Integer()),
        *_run_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("search_id", "number", name="uq_trials_search_id_number"),
        sa.UniqueConstraint("search_id", "told", name="uq_trials_search_id_told"),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], "fk_trials_search_id_searches"),
        sa.ForeignKeyConstraint(["reused_from"], ["trials.id"], "fk_trials_reused_from_trials"),
    )
    op.create_index("ix_trials_key", "trials", ["key"])
    op.create_index("ix_trials_conditions_key", "trials", ["conditions", "key"])
    op.create_table(
        "trainings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("search_id", sa.Integer()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("distiller", sa.Text()),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("checkpoint", sa.Text()),
        *_run_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_trainings"),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], "fk_trainings_search_id_searches"),
    )
    op.create_index("ix_trainings_search_id", "trainings", ["search_id"])


def downgrade() -> None:
    for table in ("trainings", "trials", "searches"):
        op.drop_table(table)


def _run_columns() -> list[sa.Column]:
    return [
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text()),
        sa.Column("device", sa.Text()),
        sa.Column("started", sa.DateTime(timezone=True)),
        sa.Column("finished", sa.DateTime(timezone=True)),
        sa.Column("seconds", sa.Double()),
    ]
