"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..space import Distiller, SearchSpace, WrongUse

if TYPE_CHECKING:
    from ..db import Store

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
AlgorithmName = Annotated[
    str, typer.Option("--algorithm", help="bgs, shortest-sum, shortest-max or forward.")
]
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
    from ..search.plans.plan import make_plan
    from ..search.plans.start import reads_store
    from ..search.run import run_search
    from ..settings import config_name, load_config
    from .display import SearchDisplay, final_table

    if name is not None and Path(name).name != name:
        raise WrongUse(f"--name {name}: a name is no path; say where files go by --work-dir")
    name = name or config_name(config)
    folder = _folder(work_dir, name)
    settings = load_config(config, cfg_options or [])
    plan = make_plan(settings, folder)
    there = resume or reads_store(settings.search.start)
    with _store(storage, folder, create=not there) as store, SearchDisplay(_again()) as display:
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
    from .display import trial_table

    if csv is not None:
        _writable("--csv", csv)
    with _store(storage, _folder(work_dir, name)) as store:
        search_id = None if name is None else store.search(name).id
        records = store.trial_records(search_id)
    if csv is None:
        trial_table(records)
        return
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
    from ..search.run import exported

    _writable("--out", out)
    with _store(storage, _folder(work_dir, name)) as store:
        row = store.search(name)
        best = store.best(row.id)
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
    distiller: Annotated[str, typer.Option(help="A distiller file, a shipped name, or none.")],
    teachers: Annotated[
        str | None,
        typer.Option(help="auto, or names of the config's `teachers`, first to last: A,B,C."),
    ] = None,
    max_teachers: MaxTeachers = None,
    algorithm: AlgorithmName = "bgs",
    work_dir: WorkDir = None,
    storage: Storage = None,
    cfg_options: Options = None,
) -> None:
    """Train the student in full, with a distiller or alone, into a plain mmdet checkpoint.

    With --teachers, progressively: under one teacher after the other, the epochs shared out.
    """
    from ..configs import distiller_file
    from ..search.plans.plan import make_plan
    from ..search.plans.trainings import check_training, run_training
    from ..search.teachers.order import check_algorithm
    from ..search.teachers.pool import chosen_teachers
    from ..search.teachers.progressive import run_progressive
    from ..settings import config_name, load_config
    from .display import SearchDisplay, training_table

    check_algorithm(algorithm, max_teachers)
    if teachers is not None and distiller == "none":
        raise WrongUse("--teachers: nothing is learned from them with --distiller none")
    form = None if distiller == "none" else Distiller.from_json(distiller_file(distiller))
    folder = _folder(work_dir, config_name(config))
    plan = make_plan(load_config(config, cfg_options or []), folder, pool=teachers is not None)
    names = None if teachers in (None, "auto") else (teachers or "").split(",")
    order = None if names is None else chosen_teachers(plan, names)
    check_training(plan, form, [one.signature for one in order or plan.pool[1:]])
    with _store(storage, folder, create=True) as store, SearchDisplay(_again()) as display:
        name = Path(distiller).stem
        if teachers is None or form is None:
            results = run_training(plan, store, display, form, name)
        else:
            results = run_progressive(
                plan, store, display, form, name, order, algorithm, max_teachers
            )
    training_table(results)


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
    algorithm: AlgorithmName = "bgs",
    images: Annotated[int, typer.Option(help="Images that costs are measured on.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the order as JSON.")] = False,
    work_dir: WorkDir = None,
    storage: Storage = None,
    cfg_options: Options = None,
) -> None:
    """Order teachers by how hard one's features are to adapt to the next's (MTPD)."""
    from ..search.teachers.order import read_pool, teacher_order
    from .display import SearchDisplay, teacher_table

    if (config is None) == (costs is None):
        raise WrongUse("teachers: give either a config or --costs")
    if costs is not None:
        if student is None:
            raise WrongUse("--student: say which of the models in --costs is the student")
        pool = read_pool(costs, student)
        teacher_order(pool, algorithm, max_teachers)
    else:
        from ..search.plans.plan import make_plan
        from ..search.teachers.order import check_algorithm
        from ..search.teachers.pool import run_order
        from ..settings import config_name, load_config

        assert config is not None
        check_algorithm(algorithm, max_teachers)
        folder = _folder(work_dir, config_name(config))
        plan = make_plan(load_config(config, cfg_options or []), folder, pool=True)
        with _store(storage, folder, create=True) as store, SearchDisplay(_again()) as display:
            pool = run_order(plan, store, display, images)
    order = teacher_order(pool, algorithm, max_teachers)
    if as_json:
        typer.echo(json.dumps({"order": order.teachers, "reason": order.reason, **vars(pool)}))
        return
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
    from .display import proxy_table

    proxy_table(write_proxy(annotations, train, val, out, seed))


@app.command()
def space(
    preset: Annotated[str, typer.Option(help="The preset to print.")] = "detkds",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the search space and its size."""
    from .display import space_listing

    chosen = SearchSpace.preset(preset)
    if as_json:
        typer.echo(json.dumps(chosen.to_dict(), indent=2))
        return
    space_listing(chosen)


def _folder(work_dir: Path | None, name: str | None) -> Path:
    return work_dir or Path("runs") / Path(name or "").name


def _store(storage: str | None, folder: Path, create: bool = False) -> Store:
    """The database; without ``--storage`` the work folder's file, its folder made for a search."""
    from ..db import Store

    if storage is None and create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongUse(f"--work-dir {folder}: can't make it: {error.strerror}") from None
    return Store(storage or f"sqlite:///{folder / 'detkds.db'}", create=create)


def _again() -> str:
    """The command that goes on with this one, without its password."""
    from ..db import hide_password

    arguments = sys.argv[1:]
    if arguments[:1] == ["search"] and "--resume" not in arguments:
        arguments.append("--resume")
    return shlex.join(["detkds", *map(hide_password, arguments)])


def _writable(option: str, file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise WrongUse(f"{option} {file}: its folder does not exist; make it first")


def main() -> None:
    """Run the command; a wrong use is one line and exit code 2, a failure one line and 1."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        # typer turns Ctrl-C into an exit code of 130 and hands it back.
        sys.exit(app(_spread_options(sys.argv[1:]), standalone_mode=False) or 0)
    except WrongUse as error:
        _end(f"detkds: {error}", 2)
    except KeyboardInterrupt:
        _end("", 130)
    except Exception as error:
        _explain(error)


def _spread_options(arguments: list[str]) -> list[str]:
    """``--cfg-options a=1 b=2``, as mmdet's scripts take them, for a parser of one value each."""
    spread: list[str] = []
    listing = False
    for argument in arguments:
        if argument.startswith("-"):
            listing = argument == "--cfg-options"
        elif listing and "=" in argument and spread[-1] != "--cfg-options":
            spread.append("--cfg-options")
        spread.append(argument)
    return spread


def _explain(error: Exception) -> None:
    if isinstance(error, typer.Abort):
        _end("", 130)
    if hasattr(error, "format_message"):  # click's usage errors, which typer carries under its name
        _end(f"detkds: {' '.join(error.format_message().split())} (see --help)", 2)
    if type(error).__name__ == "SearchFailed":
        _end(f"detkds: {error}", 1)
    raise error


def _end(message: str, code: int) -> None:
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)
