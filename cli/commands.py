"""The commands that look, and those that make small things: trials, distillers, orders, subsets.

A command imports the other rooms when it needs them: `detkds space` starts without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..search.api import work_folder
from ..space import Distiller, SearchSpace, WrongUse
from ..space.errors import shown
from .app import ALGORITHM_HELP, MaxTeachers, Options, SearchName, Storage, WorkDir, app
from .listing import SORTS, best_of, in_points, listed
from .options import naming
from .places import (
    check_writable,
    make_display,
    open_store,
    options_of_place,
    say_loading,
    store_of,
    stores,
)

if TYPE_CHECKING:
    from ..db import Store


@app.command()
def trials(
    name: Annotated[str | None, typer.Argument(help="A search's name; all if left out.")] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
    csv: Annotated[Path | None, typer.Option(help="Write all columns to this file.")] = None,
    top: Annotated[int | None, typer.Option(help="So many of them, the best first.")] = None,
    sort: Annotated[str | None, typer.Option(help=f"By {', '.join(SORTS)}.")] = None,
    status: Annotated[str | None, typer.Option(help="Only completed, rejected, … trials.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only the trials of this stage.")] = None,
    trainings: Annotated[
        bool, typer.Option("--trainings", help="List full trainings instead: teacher, finals, …")
    ] = False,
) -> None:
    """List trials with their stage, status, score and distiller; the best is marked.

    `detkds log NAME 17` prints all of one of them, its traceback included.
    """
    from ..db.frames import training_records

    if csv is not None:
        check_writable("--csv", csv)
    if trainings and stage is not None:
        raise WrongUse("--stage: a training has none; leave it or --trainings out")
    records = []
    for store in stores(storage, work_dir, name):
        search_id = None if name is None else store.search(name).id
        records += (
            training_records(store, search_id) if trainings else store.trial_records(search_id)
        )
    chosen = listed(records, status=status, stage=stage, sort=sort, top=top)
    if csv is None:
        from .tables import training_listing, trial_table

        training_listing(chosen) if trainings else trial_table(chosen, best_of(records))
    else:
        import pandas

        pandas.DataFrame(chosen).to_csv(csv, index=False)
        typer.echo(f"{len(chosen)} {'trainings' if trainings else 'trials'} written to {csv}")


@app.command()
def searches(storage: Storage = None, work_dir: WorkDir = None) -> None:
    """List the searches of a database, or of all folders in runs/, and where each stands."""
    from ..db.runners import runner_of
    from .tables import search_table

    rows = [
        (row, store.trials(row.id), runner_of(store, row.name), store.url)
        for store in stores(storage, work_dir, None)
        for row in store.searches()
    ]
    search_table(rows)


@app.command()
def export(
    name: SearchName = None,
    out: Annotated[Path | None, typer.Option("--out", help="The distiller file.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write a model card, Markdown, for the trained student.")
    ] = None,
    optuna: Annotated[
        str | None,
        typer.Option(help="Copy all trials to an Optuna study: a .log file or a database's URL."),
    ] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Write the best distiller so far to a file, and what else belongs to it."""
    if out is None and card is None and optuna is None:
        raise WrongUse("export: say what to write: --out, --card or --optuna")
    for option, file in (("--out", out), ("--card", card)):
        if file is not None:
            check_writable(option, file)
    with store_of(storage, work_dir, name) as (store, name, _):
        if optuna is not None:
            from .studies import write_study

            typer.echo(write_study(store, name, optuna))
        if out is not None:
            _export(store, name, out)
        if card is not None:
            from ..report import Facts, model_card
            from ..space.writing import replace_file

            facts = Facts.read(store, name, options_of_place(storage, work_dir))
            if facts.best is None:
                raise WrongUse(f"search '{name}' has no completed trial yet: no card to write")
            replace_file(card, model_card(facts))
            typer.echo(f"model card, written to {card}")


def _export(store: Store, name: str, out: Path) -> None:
    """Write the distiller, and say which it is."""
    from ..search.exported import best_trial, exported

    row = store.search(name)
    best = best_trial(store, row)
    if best is None:
        raise WrongUse(f"search '{name}' has no completed trial yet: nothing to export")
    distiller = exported(best, row)
    distiller.to_json(out)
    typer.echo(
        f"{distiller}\nproxy AP {in_points(best.score)}, trial {best.number}, written to {out}"
    )


@app.command()
def show(file: Annotated[str, typer.Argument(help="A distiller file or a shipped name.")]) -> None:
    """Print a distiller file in the papers' arrow notation."""
    from ..configs import distiller_file

    distiller = Distiller.from_json(distiller_file(file))
    typer.echo(shown(f"{distiller.name or file}\n{distiller}"))
    for key, value in (distiller.provenance or {}).items():
        typer.echo(shown(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}"))


@app.command()
def papers(
    which: Annotated[
        str | None, typer.Argument(help="PAPER or PAPER/TABLE; all if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List rows of the papers' tables: what each published, the command, what it needs."""
    from ..configs import records, selected

    if as_json:
        typer.echo(json.dumps(records(which), indent=2))
    else:
        from .tables import paper_listing

        paper_listing(list(selected(which)))


@app.command()
def teachers(
    config: Annotated[
        str | None, typer.Argument(help="A search config with a section `teachers`.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="Costs and scores from a JSON file, instead of a config.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="The student's name in --costs.")] = None,
    max_teachers: MaxTeachers = None,
    algorithm: Annotated[str, typer.Option("--algorithm", help=ALGORITHM_HELP)] = "bgs",
    images: Annotated[int, typer.Option(help="Images that costs are measured on.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the order as JSON.")] = False,
    work_dir: WorkDir = None,
    storage: Storage = None,
    cfg_options: Options = None,
) -> None:
    """Order teachers by how hard one's features are to adapt to the next's (MTPD)."""
    from ..search.teachers.order import check_algorithm, read_pool, teacher_order

    if (config is None) == (costs is None):
        raise WrongUse("teachers: give either a config or --costs")
    if costs is not None:
        if student is None:
            raise WrongUse("--student: say which of the models in --costs is the student")
        with naming({"student": "--student"}):  # with a config, `student` is a section
            pool = read_pool(costs, student)
    else:
        from ..settings import config_name, load_config

        assert config is not None
        check_algorithm(algorithm, max_teachers)
        folder = work_folder(work_dir, config_name(config))
        settings = load_config(config, cfg_options or [])
        say_loading()

        from ..search.plans.plan import make_plan
        from ..search.teachers.pool import run_order

        plan = make_plan(settings, folder, pool=True)
        opened = open_store(storage, folder, True, settings.resources.patience)
        with opened as store, make_display() as display:
            pool = run_order(plan, store, display, images)
    order = teacher_order(pool, algorithm, max_teachers)
    if as_json:
        typer.echo(json.dumps({"order": order.teachers, "reason": order.reason, **vars(pool)}))
    else:
        from .tables import teacher_table

        teacher_table(pool, algorithm, max_teachers)


@app.command()
def proxy(
    annotations: Annotated[Path, typer.Argument(help="A COCO-format annotation file.")],
    train: Annotated[int, typer.Option(help="Training images to draw.")],
    val: Annotated[int, typer.Option(help="Validation images to draw.")],
    out: Annotated[Path, typer.Option(help="The folder for train.json and val.json.")],
    seed: int = 0,
) -> None:
    """Draw disjoint training and validation subsets that keep class and size shares."""
    from ..data.proxy import write_proxy
    from .tables import proxy_table

    proxy_table(write_proxy(annotations, train, val, out, seed))


@app.command()
def space(
    preset: Annotated[str, typer.Option(help="The preset to print.")] = "detkds",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the search space and its size."""
    chosen = SearchSpace.preset(preset)
    if as_json:
        typer.echo(json.dumps(chosen.to_dict(), indent=2))
    else:
        from .tables import space_listing

        space_listing(chosen)
