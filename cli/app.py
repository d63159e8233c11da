"""The ``detkds`` command's parser, and the options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Search distillation losses for object detectors, and train students with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

WorkDir = Annotated[
    Path | None, typer.Option("--work-dir", help="Where all files go. \\[default: runs/<config>]")
]
SearchName = Annotated[
    str | None,
    typer.Argument(help="A search's name. Not needed where the --work-dir has one search."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="DETKDS_STORAGE",
        help="Database URL. \\[default: sqlite:///<work-dir>/detkds.db]",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--cfg-options", help="key=value to change in the config; may be repeated."),
]
ConfigArgument = Annotated[
    str | None,
    typer.Argument(help="A search config: a path or a shipped name. Not needed with --student."),
]
StudentConfig = Annotated[
    str | None,
    typer.Option("--student", help="An mmdet config; it says what no search config says."),
]
TeacherConfig = Annotated[str | None, typer.Option("--teacher", help="The teacher's mmdet config.")]
TeacherWeights = Annotated[
    str | None, typer.Option("--teacher-checkpoint", help="The teacher's weights.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check all, print the whole config, and stop.")
]
MaxTeachers = Annotated[int | None, typer.Option(help="At most so many. \\[default: all]")]
ALGORITHM_HELP = "bgs, shortest-sum, shortest-max or forward."
OutFile = Annotated[Path, typer.Option("--out", help="The file to write.")]
