"""``detkds db``: what the owner of a database does with it."""

from __future__ import annotations

from pathlib import Path

import typer

from ..search.api import storage_url, work_folder
from ..space import SearchFailed
from .app import OutFile, Storage, WorkDir, app
from .places import check_writable

db = typer.Typer(help="Check, copy or upgrade a database.", no_args_is_help=True)
app.add_typer(db, name="db")


def _url(storage: str | None, work_dir: Path | None) -> str:
    return storage_url(storage, work_folder(work_dir, None))


@db.command()
def check(storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Say what a database holds, who runs a search in it, and whether it is whole."""
    from ..db import maintenance

    found = maintenance.check(_url(storage, work_dir))
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    typer.echo(f"schema {found.revision} (this version's: {found.newest}); {counts}")
    for line in found.held:
        typer.echo(line)
    if found.faults:
        raise SearchFailed(f"{len(found.faults)} fault(s), the first: {found.faults[0]}")
    typer.echo("no faults")


@db.command()
def backup(out: OutFile, storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Copy a database, as it is at this moment, into a SQLite file."""
    from ..db import maintenance

    check_writable("--out", out)
    counts = maintenance.backup(_url(storage, work_dir), out)
    rows = ", ".join(f"{count} {name}" for name, count in counts.items())
    typer.echo(f"{rows} copied; --storage sqlite:///{out} opens {out}")


@db.command()
def upgrade(storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Bring a database's schema up to this version; earlier versions can't open it any more."""
    from ..db import maintenance

    before, after = maintenance.upgrade_database(_url(storage, work_dir))
    typer.echo(f"schema {before} upgraded to {after}" if before != after else "up to date already")
