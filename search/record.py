"""What a work folder says of itself: the whole config of what ran there, and the versions.

``NAME.search.py`` is the config of a search, ``NAME.train.py`` that of the last full trainings.
Each is whole and has no relative paths: the folder alone is enough to go on. ``environment.json``
has an entry for each start.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..space import WrongUse
from ..space.writing import find_json, replace_file

if TYPE_CHECKING:
    from ..settings import SearchConfig

Kind = Literal["search", "train"]
ENVIRONMENT = "environment.json"
#: The schema of the file of detections.
DETECTIONS = "detkds/detections/1"
#: The packages that results depend on.
PACKAGES = ("torch", "torchvision", "mmdet", "mmengine", "mmcv", "mmcv-lite", "ray", "numpy")


def config_text(settings: SearchConfig) -> str:
    """The whole config, as a search config that comes to the same plan."""
    from mmengine.config import Config

    return Config(settings.model_dump(exclude_defaults=True)).pretty_text


def write_record(folder: Path, name: str, kind: Kind, settings: SearchConfig) -> None:
    """Write the config, and what it is started with, into the work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    command = f"detkds {kind} --work-dir {folder}"
    how = "--resume goes on" if kind == "search" else "--distiller … trains"
    head = (
        f"# The whole config of what was started at {started}; {ENVIRONMENT} has the versions.\n"
        f"# {command} {how} by it.\n"
    )
    replace_file(config_file(folder, name, kind), head + config_text(_anywhere(settings)))
    known = find_json(folder / ENVIRONMENT)
    starts = known if isinstance(known, list) else []
    entry = {"command": kind, "name": name, "started": started, **environment()}
    replace_file(folder / ENVIRONMENT, json.dumps([*starts, entry], indent=2) + "\n")


def config_file(folder: Path, name: str, kind: Kind) -> Path:
    """The file that :func:`write_record` writes the config to."""
    return folder / f"{name}.{kind}.py"


def detections_file(folder: Path, name: str) -> Path:
    """The file of what a search's detectors find in the test images, for its report."""
    return folder / f"{name}.detections.json"


def read_detections(folder: Path, name: str) -> dict[str, Any] | None:
    """The content of that file, with the ``folder``; None without a file of this version."""
    found = find_json(detections_file(folder, name))
    known = isinstance(found, dict) and found.get("schema") == DETECTIONS
    return {**found, "folder": folder} if known else None


def environment() -> dict[str, Any]:
    """Versions, machine and devices of this process."""
    import torch

    devices = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
    return {
        "detkds": __version__,
        "python": platform.python_version(),
        "packages": {**dict(_versions()), "torch": torch.__version__},
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "devices": devices or ["cpu"],
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _anywhere(settings: SearchConfig) -> SearchConfig:
    """The same config with whole paths of the files that it names by relative ones."""
    found = settings.model_copy(deep=True)
    for model in (found.student, found.teacher, *found.teachers.values()):
        if model is not None and isinstance(model.config, str):
            model.config = _whole(model.config)
    found.search.start = list(map(_whole, found.search.start))
    if found.final is not None:
        found.final.compare = list(map(_whole, found.final.compare))
    return found


def _whole(reference: str) -> str:
    path = Path(reference).expanduser()
    return str(path.absolute()) if path.is_file() else reference


def recorded(folder: Path, name: str | None, kind: Kind) -> tuple[Path, str]:
    """The config of a work folder and its name; that of ``name``, if it is given.

    A training goes by the config of the folder's search, if there was one. Raises :class:`WrongUse`
    if the folder has none, or several.
    """
    kinds: list[Kind] = ["search"] if kind == "search" else ["search", "train"]
    for one in kinds:
        files = sorted(folder.glob(f"{escape(name) if name else '*'}.{one}.py"))
        if len(files) == 1:
            return files[0], files[0].name.removesuffix(f".{one}.py")
        if files:
            raise WrongUse(
                f"{folder} has several configs: {', '.join(map(str, files))}: give one as CONFIG",
                "work_dir",
            )
    of = "" if name is None else f" of '{name}'"
    raise WrongUse(
        f"{folder} has no config{of} that a {kind} left there: give a search config, or --student "
        "with --teacher and --teacher-checkpoint",
        "work_dir",
    )
