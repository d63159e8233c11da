"""One module per revision, found by alembic."""
