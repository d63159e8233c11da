"""The commands to look at a search: while it runs, and on the page that it ends with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..space import WrongUse
from .app import SearchName, Storage, WorkDir, app
from .places import check_writable, options_of_place, store_of

if TYPE_CHECKING:
    from ..db import Store
    from ..report import Facts


@app.command()
def report(
    name: SearchName = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. \\[default: <work-dir>/<name>.html]")
    ] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Write a page about a search: what won, how sure that is, every trial. One HTML file."""
    if out is not None:
        check_writable("--out", out)
    with store_of(storage, work_dir, name) as (store, name, folder):
        file = out or (folder if folder.is_dir() else Path()) / f"{Path(name).name}.html"
        check_writable("--out", file)
        try:
            facts = write_page(store, name, folder, file, options_of_place(storage, work_dir))
        except OSError as error:
            raise WrongUse(f"--out {file}: can't write it: {error.strerror}") from None
    typer.echo(f"{len(facts.trials)} trials, written to {file}")


@app.command()
def watch(
    name: SearchName = None,
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Follow a search from another terminal or machine, by its database alone."""
    with store_of(storage, work_dir, name) as (store, name, _):
        from .watch import watch as show_search

        show_search(store, name, once)


def write_page(store: Store, name: str, folder: Path, file: Path, place: str) -> Facts:
    """Write the page of a search to a file.

    ``folder``: the search's work folder; ``place``: the options that lead to the store.

    Raises :class:`WrongUse` if no trial has completed and nobody runs the search, and OSError if
    the file can't be written.
    """
    from ..report import Facts, render
    from ..space.writing import replace_file

    facts = Facts.read(store, name, place, folder)
    if facts.best is None and facts.runner is None:
        raise WrongUse(f"search '{name}' has no completed trial: nothing to report{_why(facts)}")
    replace_file(file, render(facts))
    return facts


def _why(facts: Facts) -> str:
    """Why no trial has completed, as the end of a sentence."""
    reasons = Counter(trial.why or trial.status.value for trial in facts.trials)
    if not reasons:
        return "; no trial has been asked for yet"
    reason, count = reasons.most_common(1)[0]
    return f"; {count} of {len(facts.trials)} trials: {reason}"
