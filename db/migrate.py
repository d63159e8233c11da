"""Bringing a database to the newest schema with the package's own alembic revisions."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from .models import Base
from .sqlite import READING

MIGRATIONS = Path(__file__).parent / "migrations"
#: Any number will do, as long as every process that migrates takes the same lock.
_POSTGRESQL_LOCK = 0x6465746B6473


def configuration(connection: Connection, folder: Path = MIGRATIONS) -> Config:
    """Alembic's configuration for one open connection, with no ``alembic.ini``."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = Base.metadata
    return config


def upgrade(engine: Engine) -> None:
    """Upgrade to the newest revision, in one transaction that one process at a time enters.

    Raises alembic's ``CommandError`` when the database is at a revision unknown here.
    """
    with engine.execution_options(**READING).connect() as connection:
        if _is_newest(connection):
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK}
            )
        command.upgrade(configuration(connection), "head")


def _is_newest(connection: Connection) -> bool:
    script = ScriptDirectory.from_config(configuration(connection))
    return set(MigrationContext.configure(connection).get_current_heads()) == {
        script.get_current_head()
    }
