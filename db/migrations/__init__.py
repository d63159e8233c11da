"""The schema's revisions. ``python -m detkds.db.migrations "what changes"`` writes the next."""
