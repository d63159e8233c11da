"""``detkds log``: all that is known of one trial or full training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..search.api import work_folder
from ..space import WrongUse, nearest
from ..space.errors import shown
from .app import Storage, WorkDir, app
from .listing import in_points
from .places import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..db import SearchRow, Store, TrainingRow, TrialRow


@app.command()
def log(
    name: Annotated[str, typer.Argument(help="A search's name.")],
    which: Annotated[
        str, typer.Argument(help="A trial's number, or a training: teacher-seed0, found-seed0, …")
    ],
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Print a trial or a full training: its log, how it went, its traceback if it failed.

    `detkds trials NAME` and `detkds trials NAME --trainings` list them.
    """
    with open_store(storage, work_folder(work_dir, name)) as store:
        search = store.search(name)
        row = _trial(store, search, which) if which.isdigit() else _training(store, search, which)
        for line in _story(row):
            typer.echo(shown(line))


def _trial(store: Store, search: SearchRow, number: str) -> TrialRow:
    trials = store.trials(search.id)
    for trial in trials:
        if trial.number == int(number):
            return trial
    there = f"its trials are 0 to {trials[-1].number}" if trials else "it has none yet"
    raise WrongUse(f"search '{search.name}' has no trial {number}: {there}")


def _training(store: Store, search: SearchRow, label: str) -> TrainingRow:
    """The last training of this label."""
    known = {row.label: row for row in store.trainings(search.id)}
    if label in known:
        return known[label]
    raise WrongUse(f"search '{search.name}' has no training {label}: {nearest(label, known)}")


def _story(row: TrialRow | TrainingRow) -> Iterator[str]:
    """What is known of a run, line by line; what matters most comes last."""
    from ..db import TrialRow

    if isinstance(row, TrialRow):
        yield f"trial {row.number}, stage {row.stage}: {row.notation}".replace("\n", "; ")
    else:
        yield f"training {row.label}, scored on {row.split}; its file: {row.checkpoint}"
        if row.distiller is not None:
            yield f"distiller: {row.distiller}".replace("\n", "; ")
        for file in _logs(row):
            yield f"log: {file}"
            yield from file.read_text("utf-8", errors="replace").splitlines()
    yield from (f"{name}: {value:g}" for name, value in row.metrics.items())
    if row.error:
        yield from row.error.strip().splitlines()
    at = [f"on {row.host} {row.device or ''}".rstrip()] if row.host else []
    begun = [f"begun {row.started:%Y-%m-%d %H:%M:%S} UTC"] if row.started else []
    took = [f"{row.seconds:.0f} s"] if row.seconds is not None else []
    ap = [f"AP {in_points(row.score)}"] if row.score is not None else []
    why = [row.reason] if row.reason else []
    yield ", ".join([row.status.value, *ap, *begun, *took, *at, *why])


def _logs(row: TrainingRow) -> list[Path]:
    """mmengine's logs of a training, one a start, oldest first."""
    return sorted(Path(row.checkpoint).parent.glob("*/*.log")) if row.checkpoint else []
