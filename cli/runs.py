"""The commands that run a search or a training; each starts with a config.

A command imports the other rooms when it needs them: a wrong config is refused before torch is
imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..space import Distiller, WrongUse
from ..space.errors import check_name
from .app import (
    ALGORITHM_HELP,
    ConfigArgument,
    DryRun,
    MaxTeachers,
    Options,
    Storage,
    StudentConfig,
    TeacherConfig,
    TeacherWeights,
    WorkDir,
    app,
)
from .configs import Given, read_configured
from .places import check_writable, make_display, open_store, options_of_place, say_loading
from .reports import write_page

if TYPE_CHECKING:
    from ..configs import Row
    from ..search.plans.plan import Plan
    from ..search.plans.pool import PoolModel


@app.command()
def search(
    config: ConfigArgument = None,
    student: StudentConfig = None,
    teacher: TeacherConfig = None,
    teacher_checkpoint: TeacherWeights = None,
    name: Annotated[
        str | None, typer.Option(help="The search's name. \\[default: the config's]")
    ] = None,
    storage: Storage = None,
    work_dir: WorkDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    dry_run: DryRun = False,
    submit_to: Annotated[
        str | None,
        typer.Option(
            "--submit",
            help="Run as a job on the Ray cluster of this dashboard, http://head:8265, which sees "
            "this folder. Ctrl-C leaves it running.",
        ),
    ] = None,
    cfg_options: Options = None,
) -> int | None:
    """Search the distiller that trains the student best, then compare it in full trainings.

    Either by a search config, or by two mmdet configs: --student, --teacher, --teacher-checkpoint.
    With neither, by the config that an earlier search left in --work-dir: to --resume it.
    """
    if name is not None:
        check_name(name, "name")
    options = Given(student, teacher, teacher_checkpoint)
    found = read_configured(config, options, cfg_options or [], work_dir, name, "search")
    settings, name, folder = found.settings, found.name, found.folder
    if submit_to is not None and not dry_run:
        from .submitting import submit

        joined = settings.resources.address is not None
        here = [] if joined else ["--cfg-options", "resources.address=auto"]
        return submit(submit_to, name, [*sys.argv[1:], *here], storage)

    say_loading()

    from ..search.plans.estimate import in_words, whole_work
    from ..search.plans.plan import make_plan
    from ..search.plans.start import reads_store
    from ..search.run import run_search
    from .results import final_table

    plan = make_plan(settings, folder)
    if dry_run:
        found.show(plan.notes)
        return None
    found.say(plan.notes)
    for line in in_words(whole_work(plan)):
        typer.echo(f"planned  {line}")
    must_exist = resume or reads_store(settings.search.start)
    patience = settings.resources.patience
    opened = open_store(storage, folder, not must_exist, patience)
    with opened as store:
        with make_display() as display:
            result = run_search(plan, store, name, resume, display, folder / f"{name}.json")
        final_table(result)
        page = folder / f"{name}.html"
        try:
            write_page(store, name, folder, page, options_of_place(storage, work_dir))
        except OSError as error:  # the search has its result all the same
            typer.echo(f"no report: {page}: {error.strerror}", err=True)
        else:
            typer.echo(f"report: {page}")
    return None


@app.command()
def check(
    config: ConfigArgument = None,
    student: StudentConfig = None,
    teacher: TeacherConfig = None,
    teacher_checkpoint: TeacherWeights = None,
    work_dir: WorkDir = None,
    cfg_options: Options = None,
) -> None:
    """Try a config before a search: every image, every step; then estimate the whole.

    Opens all images, builds what all sections name, runs a few steps of the teacher, of the student
    and of one distiller of each kind where trials run, and says how long a search would take.
    """
    options = Given(student, teacher, teacher_checkpoint)
    found = read_configured(config, options, cfg_options or [], work_dir)

    say_loading()

    from ..search.inspection import inspect
    from ..search.plans.plan import make_plan
    from .results import inspection_tables

    plan = make_plan(found.settings, found.folder, every_image=True)
    found.say(plan.notes)
    with make_display() as display:
        inspection_tables(inspect(plan, display))


@app.command()
def train(
    config: ConfigArgument = None,
    student: StudentConfig = None,
    teacher: TeacherConfig = None,
    teacher_checkpoint: TeacherWeights = None,
    distiller: Annotated[
        str | None,
        typer.Option(help="A distiller file, a shipped name, or none. \\[default: the row's]"),
    ] = None,
    teachers: Annotated[
        str | None,
        typer.Option(help="auto, or names of the config's `teachers`, first to last: A,B,C."),
    ] = None,
    max_teachers: MaxTeachers = None,
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help=f"{ALGORITHM_HELP} \\[default: bgs]")
    ] = None,
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="All of --teachers at once, not in sequence.")
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            min=1,
            help="GPUs that share the training, on one machine or several, with final.batch_size "
            "images each a step. \\[default: final.processes]",
        ),
    ] = None,
    export_config: Annotated[
        Path | None,
        typer.Option("--export-config", help="Write the training as a plain mmdet config; stop."),
    ] = None,
    work_dir: WorkDir = None,
    storage: Storage = None,
    dry_run: DryRun = False,
    cfg_options: Options = None,
) -> None:
    """Train the student in full, with a distiller or alone, into a plain mmdet checkpoint.

    CONFIG may be a row of `detkds papers`, which sets the options that are not given. Without
    CONFIG and --student, the config is that of the search, or of the training, in --work-dir. With
    --teachers, progressively: from the student that is trained alone (final.off_the_shelf), under
    one teacher after the other, the epochs shared out. With --simultaneous too, under all of the
    teachers at once.
    """
    from ..configs import PAPER, paper_row
    from ..search.teachers.order import check_algorithm

    row = paper_row(config) if config is not None and config.startswith(PAPER) else None
    if row is not None and row.run != "train":
        raise WrongUse(f"{config}: it is no training; run {row.command}")
    if row is not None and teachers is None and distiller != "none":
        teachers, simultaneous = row.order, simultaneous or row.simultaneous
        algorithm, max_teachers = algorithm or row.algorithm, max_teachers or row.max_teachers
    algorithm = algorithm or "bgs"
    check_algorithm(algorithm, max_teachers)
    _check_teachers(teachers, distiller, simultaneous, max_teachers)
    if export_config is not None:
        check_writable("--export-config", export_config)
        if teachers is not None and not simultaneous:
            raise WrongUse("--export-config: a sequence of teachers is several trainings, not one")
    name, chosen = _distiller(distiller, row)
    options = Given(student, teacher, teacher_checkpoint, gpus)
    found = read_configured(config, options, cfg_options or [], work_dir, kind="train")
    settings, folder = found.settings, found.folder
    say_loading()

    from ..search.plans.plan import make_plan
    from ..search.plans.pool import check_sizes
    from ..search.plans.trainings import check_training, run_training
    from ..search.record import write_record
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
    if dry_run:
        return found.show(plan.notes)
    if export_config is not None:
        return _export_config(plan, name, chosen, export_config, order if simultaneous else None)
    found.say(plan.notes)
    opened = open_store(storage, folder, True, settings.resources.patience)
    with opened as store, make_display() as display:
        write_record(folder, found.name, "train", settings)
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


def _check_teachers(
    teachers: str | None, distiller: str | None, simultaneous: bool, max_teachers: int | None
) -> None:
    """Raise :class:`WrongUse` for options of several teachers that do not go together."""
    if teachers is not None and distiller == "none":
        raise WrongUse("--teachers: nothing is learned from them with --distiller none")
    if simultaneous and teachers is None:
        raise WrongUse("--simultaneous: say which teachers teach at once: give --teachers")
    if simultaneous and max_teachers is not None:
        raise WrongUse(
            f"--max-teachers {max_teachers}: it ends a sequence, and --simultaneous has none: name "
            "the teachers that teach at once in --teachers"
        )


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


def _export_config(
    plan: Plan, name: str, distiller: Distiller | None, file: Path, together: list[PoolModel] | None
) -> None:
    """Write the training, under the first seed, as a plain mmdet config."""
    from ..search.plans.full import final_section, student_training
    from ..search.plans.plan import make_data
    from ..search.teachers.simultaneous import simultaneous_training
    from ..workers.plain_config import write_plain_config

    seed = final_section(plan).seeds[0]
    if together and distiller is not None:
        training = simultaneous_training(plan, together, name, distiller, seed)
    else:
        training = student_training(plan, name, distiller, seed)
    for teacher in training.teachers:
        if teacher.checkpoint is None or not Path(teacher.checkpoint).is_file():
            raise WrongUse(
                "a teacher has no weights yet, and mmdet's script trains none: give "
                "teacher.checkpoint",
                "export_config",
            )
    make_data(plan)
    write_plain_config(training, file)
    processes = training.schedule.processes
    script = "train.py" if processes == 1 else "dist_train.sh"
    command = f"tools/{script} {file}" + (f" {processes}" if processes > 1 else "")
    typer.echo(f"{training.name}, seed {seed}: mmdet's {command} runs it")
