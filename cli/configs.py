"""The search config of a command: read from a file, or made of two mmdet configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..search.api import work_folder
from ..search.record import Kind, config_text, recorded
from ..space import WrongUse, nearest
from .places import say_loading

if TYPE_CHECKING:
    from ..settings import SearchConfig


@dataclass(frozen=True)
class Given:
    """The models and the GPUs that a command's options name, None where they don't."""

    student: str | None
    teacher: str | None
    checkpoint: str | None
    #: GPUs of a full training, one for each of its processes.
    gpus: int | None = None

    @property
    def sections(self) -> dict[str, Any]:
        """The settings that these options set."""
        given = {
            "student.config": self.student,
            "teacher.config": self.teacher,
            "teacher.checkpoint": self.checkpoint,
            "final.processes": self.gpus,
            "resources.gpus": None if self.gpus is None else 1,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Configured:
    """A command's config, its work folder, and in words what was derived for it."""

    settings: SearchConfig
    name: str
    folder: Path
    derived: list[str]

    def say(self, notes: Sequence[str], before: str = "") -> None:
        """Print what was derived, and a plan's notes, each line after ``before``."""
        for line in self.derived:
            typer.echo(f"{before}derived  {line}")
        for line in notes:
            typer.echo(f"{before}note  {line}")

    def show(self, notes: Sequence[str]) -> None:
        """Print the whole config, as a search config that may be kept in a file."""
        self.say(notes, before="# ")
        typer.echo(config_text(self.settings))


def read_configured(
    config: str | None,
    options: Given,
    cfg_options: list[str],
    work_dir: Path | None,
    name: str | None = None,
    kind: Kind | None = None,
) -> Configured:
    """The config of a command.

    Without ``config``, or where that has no section ``data``, the student's mmdet config says what
    no section does. Without ``config``, options that name no section change the student's config.
    Without ``config`` and student, the work folder's own config is taken, for a command of a
    ``kind`` that has left one there.
    """
    from ..settings import SearchConfig, config_name
    from ..settings.load import merge, read_options, read_sections, validated

    if config is None and options.student is None:
        if kind is None or (work_dir is None and name is None):
            raise WrongUse(
                "give a search config, or --student with --teacher and --teacher-checkpoint"
                + (f", or the --work-dir of an earlier {kind}" if kind else "")
            )
        file, recorded_name = recorded(work_folder(work_dir, name), name, kind)
        config, name = str(file), recorded_name
    name = name or config_name(config or options.student or "")
    folder = work_folder(work_dir, name)
    if config is not None:
        given = merge(read_sections(config, cfg_options), options.sections)
    else:
        changes = read_options(cfg_options)
        known = SearchConfig.model_fields
        own = {key: value for key, value in changes.items() if key.partition(".")[0] not in known}
        given = merge({"student": {"cfg_options": own}}, options.sections)
        given = merge(given, {key: changes[key] for key in changes if key not in own})
        _check_known(own, given["student"])
    derived: list[str] = []
    if config is None or not {"train", "synthetic"} & set(given.get("data") or ()):
        say_loading()

        from ..search.plans.jobs import completed

        given, derived = completed(given, folder)
    settings = validated(SearchConfig, given, config or "the config")
    return Configured(settings, name, folder, derived)


def _check_known(own: dict[str, Any], student: dict[str, Any]) -> None:
    """Raise :class:`WrongUse` for an option that is neither of a section nor of the student's."""
    from ..detectors import whole_config
    from ..settings import SearchConfig

    if not own:
        return
    parts = set(whole_config(student["config"]).to_dict()) | {"custom_hooks", "randomness"}
    for key in own:
        top = key.partition(".")[0]
        if top not in parts:
            known = nearest(top, [*SearchConfig.model_fields, *sorted(parts)])
            raise WrongUse(
                f"{key}: neither a section nor a part of {student['config']}: {known}",
                "cfg_options",
            )
