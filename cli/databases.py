"""``detkds db``, ``clean`` and ``delete``: what an owner does with a database and its files."""

from __future__ import annotations

from typing import Annotated

import typer

from ..search.api import work_folder
from ..space import SearchFailed, WrongUse
from ..space.errors import hide_password
from .app import OutFile, Storage, WorkDir, app
from .places import check_writable, databases, open_store

db = typer.Typer(help="Check, copy or upgrade a database.", no_args_is_help=True)
app.add_typer(db, name="db")


@db.command()
def check(storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Say what a database holds, who runs a search in it, and whether it is whole.

    Without options, those of all folders in runs/.
    """
    from ..db import maintenance

    faults: list[str] = []
    for url in databases(storage, work_dir):
        found = maintenance.check(url)
        counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
        typer.echo(
            f"{hide_password(url)}: schema {found.revision} (this version's: {found.newest})"
        )
        typer.echo(f"  {counts}")
        for line in found.held:
            typer.echo(f"  {line}")
        typer.echo("  no faults" if not found.faults else f"  {len(found.faults)} fault(s)")
        faults += found.faults
    if faults:
        raise SearchFailed(f"{len(faults)} fault(s), the first: {faults[0]}")


@db.command()
def backup(out: OutFile, storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Copy a database, as it is at this moment, into a SQLite file."""
    from ..db import maintenance

    check_writable("--out", out)
    url, *others = databases(storage, work_dir)
    if others:
        raise WrongUse(
            f"runs/ has {1 + len(others)} databases: give the --work-dir or the --storage of the "
            "one to copy"
        )
    counts = maintenance.backup(url, out)
    rows = ", ".join(f"{count} {name}" for name, count in counts.items())
    typer.echo(f"{rows} copied; --storage sqlite:///{out} opens {out}")


@db.command()
def upgrade(storage: Storage = None, work_dir: WorkDir = None) -> None:
    """Bring a database's schema up to this version; earlier versions can't open it any more.

    Without options, those of all folders in runs/.
    """
    from ..db import maintenance

    for url in databases(storage, work_dir):
        before, after = maintenance.upgrade_database(url)
        done = f"schema {before} upgraded to {after}" if before != after else "up to date already"
        typer.echo(f"{hide_password(url)}: {done}")


@app.command()
def clean(
    name: Annotated[str, typer.Argument(help="A search's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete it.")] = False,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Say what of a search's files nobody needs any more; with --yes, delete it.

    A search goes on after it as before. Nothing of a search that runs is touched.
    """
    from ..search.cleaning import waste_of

    with open_store(storage, work_folder(work_dir, name)) as store:
        search = store.search(name)
        with store.held(name):
            found = waste_of(store, search)
            for one in found:
                typer.echo(f"{one.size / 1e6:10.1f} MB  {one.path}: {one.why}")
                if yes:
                    one.delete()
    total = sum(one.size for one in found) / 1e6
    what = f"{len(found)} file(s) and folder(s), {total:.1f} MB"
    if not found:
        typer.echo("nothing to free")
    else:
        typer.echo(f"{what} deleted" if yes else f"{what}; --yes deletes them")


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="A search's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete it.")] = False,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Say what a search would take with it; with --yes, delete it from the database and the disk.

    Its distiller, its report and its trainings go. What another search or `detkds train` used
    stays, and so do scores that other searches have copied. A search that runs is not deleted.
    """
    from ..db.deletion import contents, delete_search
    from ..search.cleaning import belongings_of

    folder = work_folder(work_dir, name)
    with open_store(storage, folder) as store:
        search = store.search(name)
        with store.held(name):
            found, held = belongings_of(store, search, folder), contents(store, search.id)
            for one in found.own:
                typer.echo(f"{one.size / 1e6:10.1f} MB  {one.path}: {one.why}")
            for line in found.shared:
                typer.echo(f"      stays  {line}")
            typer.echo(
                f"{held.trials} trials and {held.trainings} trainings in {store.url}; "
                f"{held.scores - held.copied} scores are lost, and later searches would train for "
                f"them again; {held.copied} stay with searches that have copied them"
            )
            if yes:
                found.delete()
                delete_search(store, search.id)
    what = f"the search '{name}', {sum(one.size for one in found.own) / 1e6:.1f} MB of files"
    typer.echo(f"{what}: deleted" if yes else f"{what}: --yes deletes all of this")
