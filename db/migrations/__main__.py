"""Write the revision that leads from the newest revision to the models."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.script import ScriptDirectory

from ..database import MIGRATIONS, configuration, open_database


def write_revision(message: str, folder: Path = MIGRATIONS) -> None:
    """Write the differences between a fresh database and the models as the next revision."""
    with TemporaryDirectory() as temporary:
        engine = open_database(f"sqlite:///{temporary}/newest.db")
        with engine.begin() as connection:
            config = configuration(connection, folder)
            count = len(list(ScriptDirectory.from_config(config).walk_revisions()))
            command.revision(config, message, autogenerate=True, rev_id=f"{count + 1:04d}")
        engine.dispose()


if __name__ == "__main__":
    write_revision(" ".join(sys.argv[1:]) or sys.exit("say what changes"))
