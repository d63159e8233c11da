"""The commands: each parses its options, calls one function and prints what comes out.

A command imports the other rooms when it needs them: `detkds space` starts without torch, and a
wrong config is refused before torch is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..space import Distiller, SearchSpace, WrongUse
from .options import naming
from .places import check_writable, make_display, open_store, work_folder

if TYPE_CHECKING:
    from ..configs import Row

app = typer.Typer(
    help="Search distillation losses for object detectors, and train students with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

WorkDir = Annotated[
    Path | None, typer.Option("--work-dir", help="Where all files go. [default: runs/<config>]")
]
Storage = Annotated[
    str | None,
    typer.Option(help="Database URL. [default: sqlite:///<work-dir>/detkds.db]"),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--cfg-options", help="key=value to change in the config; may be repeated."),
]
ConfigArgument = Annotated[str, typer.Argument(help="A search config: a path or a shipped name.")]
MaxTeachers = Annotated[int | None, typer.Option(help="At most so many. [default: all]")]
ALGORITHM_HELP = "bgs, shortest-sum, shortest-max or forward."
OutFile = Annotated[Path, typer.Option("--out", help="The file to write.")]


@app.command()
def search(
    config: ConfigArgument,
    name: Annotated[
        str | None, typer.Option(help="The search's name. [default: the config's]")
    ] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    cfg_options: Options = None,
) -> None:
    """Search the distiller that trains the student best, then compare it in full trainings."""
    from ..settings import config_name, load_config

    if name is not None and Path(name).name != name:
        raise WrongUse(f"--name {name}: a name is no path; say where files go by --work-dir")
    name = name or config_name(config)
    folder = work_folder(work_dir, name)
    settings = load_config(config, cfg_options or [])

    from ..search.plans.plan import make_plan
    from ..search.plans.start import reads_store
    from ..search.run import run_search
    from .results import final_table

    plan = make_plan(settings, folder)
    must_exist = resume or reads_store(settings.search.start)
    with open_store(storage, folder, create=not must_exist) as store, make_display() as display:
        result = run_search(plan, store, name, resume, display, folder / f"{name}.json")
    final_table(result)


@app.command()
def trials(
    name: Annotated[str | None, typer.Argument(help="A search's name; all if left out.")] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
    csv: Annotated[Path | None, typer.Option(help="Write all columns to this file.")] = None,
) -> None:
    """List trials with their stage, status, score and distiller."""
    if csv is not None:
        check_writable("--csv", csv)
    with open_store(storage, work_folder(work_dir, name)) as store:
        search_id = None if name is None else store.search(name).id
        records = store.trial_records(search_id)
    if csv is None:
        from .tables import trial_table

        trial_table(records)
    else:
        import pandas

        pandas.DataFrame(records).to_csv(csv, index=False)
        typer.echo(f"{len(records)} trials written to {csv}")


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A search's name.")],
    out: OutFile,
    storage: Storage = None,
    work_dir: WorkDir = None,
) -> None:
    """Write the best distiller so far to a file."""
    from ..search.exported import best_trial, exported

    check_writable("--out", out)
    with open_store(storage, work_folder(work_dir, name)) as store:
        row = store.search(name)
        best = best_trial(store, row)
    if best is None:
        raise WrongUse(f"search '{name}' has no completed trial yet: nothing to export")
    distiller = exported(best, row)
    distiller.to_json(out)
    typer.echo(f"{distiller}\nproxy AP {best.score:.3f}, trial {best.number}, written to {out}")


@app.command()
def show(file: Annotated[str, typer.Argument(help="A distiller file or a shipped name.")]) -> None:
    """Print a distiller file in the papers' arrow notation."""
    from ..configs import distiller_file

    distiller = Distiller.from_json(distiller_file(file))
    typer.echo(f"{distiller.name or file}\n{distiller}")
    for key, value in (distiller.provenance or {}).items():
        typer.echo(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")


@app.command()
def train(
    config: ConfigArgument,
    distiller: Annotated[
        str | None,
        typer.Option(help="A distiller file, a shipped name, or none. [default: the row's]"),
    ] = None,
    teachers: Annotated[
        str | None,
        typer.Option(help="auto, or names of the config's `teachers`, first to last: A,B,C."),
    ] = None,
    max_teachers: MaxTeachers = None,
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help=f"{ALGORITHM_HELP} [default: bgs]")
    ] = None,
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="All of --teachers at once, not in sequence.")
    ] = False,
    work_dir: WorkDir = None,
    storage: Storage = None,
    cfg_options: Options = None,
) -> None:
    """Train the student in full, with a distiller or alone, into a plain mmdet checkpoint.

    CONFIG may be a row of `detkds papers`, which sets the options that are not given. With
    --teachers, progressively: from the student that is trained alone (final.off_the_shelf), under
    one teacher after the other, the epochs shared out. With --simultaneous too, under all of the
    teachers at once.
    """
    from ..configs import PAPER, paper_row
    from ..search.teachers.order import check_algorithm
    from ..settings import config_name, load_config

    row = paper_row(config) if config.startswith(PAPER) else None
    if row is not None and row.run != "train":
        raise WrongUse(f"{config}: it is no training; run {row.command}")
    if row is not None and teachers is None and distiller != "none":
        teachers, simultaneous = row.order, simultaneous or row.simultaneous
        algorithm, max_teachers = algorithm or row.algorithm, max_teachers or row.max_teachers
    algorithm = algorithm or "bgs"
    check_algorithm(algorithm, max_teachers)
    if teachers is not None and distiller == "none":
        raise WrongUse("--teachers: nothing is learned from them with --distiller none")
    if simultaneous and teachers is None:
        raise WrongUse("--simultaneous: say which teachers teach at once: give --teachers")
    if simultaneous and max_teachers is not None:
        raise WrongUse(
            f"--max-teachers {max_teachers}: it ends a sequence, and --simultaneous has none: name "
            "the teachers that teach at once in --teachers"
        )
    name, chosen = _distiller(distiller, row)
    folder = work_folder(work_dir, config_name(config))
    settings = load_config(config, cfg_options or [])

    from ..search.plans.plan import make_plan
    from ..search.plans.pool import check_sizes
    from ..search.plans.trainings import check_training, run_training
    from ..search.teachers.pool import chosen_teachers
    from ..search.teachers.progressive import run_progressive
    from ..search.teachers.simultaneous import run_simultaneous
    from .results import training_table

    plan = make_plan(settings, folder, pool=teachers is not None)
    names = None if teachers in (None, "auto") else (teachers or "").split(",")
    order = None if names is None else chosen_teachers(plan, names)
    check_training(plan, chosen, order or plan.pool[1:])
    if simultaneous:
        check_sizes(order or plan.pool[1:])
    with open_store(storage, folder, create=True) as store, make_display() as display:
        if teachers is None or chosen is None:
            results = run_training(plan, store, display, chosen, name)
        elif simultaneous:
            together = order or list(plan.pool[1:])
            results = run_simultaneous(plan, store, display, chosen, name, together)
        else:
            results = run_progressive(
                plan, store, display, chosen, name, order, algorithm, max_teachers
            )
    training_table(results)
    if row is not None and row.published is not None:
        typer.echo(f"the paper's {row.metric}, {row.reference}: {row.published}")


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

        from ..search.plans.plan import make_plan
        from ..search.teachers.pool import run_order

        plan = make_plan(settings, folder, pool=True)
        with open_store(storage, folder, create=True) as store, make_display() as display:
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


def _distiller(reference: str | None, row: Row | None) -> tuple[str, Distiller | None]:
    """The name and the distiller of a training; ``row``: the paper's row that is repeated, if any.

    Without a reference, the distiller is the row's.
    """
    from ..configs import distiller_file

    name = Path(reference or "").stem
    if reference is None:
        if row is None or row.distiller is None:
            raise WrongUse("give a distiller file, a shipped name, or none", "distiller")
        reference, name = row.distiller, row.name
        if "," in reference:
            return name, Distiller.parse(reference, name)
    if reference == "none":
        return name, None
    return name, Distiller.from_json(distiller_file(reference))
