"""Searches from Python: ``detkds.search``, ``detkds.trials`` and ``detkds.load_distiller``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..space import Distiller, WrongUse
from ..space.errors import check_name

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..settings import SearchConfig
    from .run import Result


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves. ``best`` is the distiller that it exports, ``score`` its AP on the
    proxy, in [0, 1], and ``trials`` has a row for each trial; ``result`` holds all else."""

    best: Distiller
    score: float
    trials: DataFrame
    result: Result

    def export(self, path: str | Path) -> None:
        """Write the distiller to a file, which ``detkds train --distiller`` takes."""
        self.best.to_json(path)


class Silent:
    """A display that shows nothing; the store and Ray's dashboard show how far a search is."""

    def dashboard(self, address: str) -> None: ...
    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None: ...
    def search(self, session: Any, planned: int) -> None: ...
    def say(self, text: str) -> None: ...


def search(
    config: str | Path | Mapping[str, Any] | SearchConfig,
    *,
    name: str | None = None,
    work_dir: str | Path | None = None,
    storage: str | None = None,
    resume: bool = False,
    cfg_options: Iterable[str] = (),
) -> SearchResult:
    """Run a search to its end, as ``detkds search`` does.

    ``config``: a search config's path or shipped name, the sections of one, or a whole one. Of
    sections without ``data``, the student's mmdet config says the rest. ``name``: by default the
    config's; a config without a file needs a name. ``work_dir``: where files go, by default
    ``runs/NAME``. ``storage``: the database's URL, by default a file in ``work_dir``.
    ``cfg_options``: ``a.b=value``, for a config that is a path or a name.

    Raises :class:`WrongUse` before anything is started, and :class:`SearchFailed`.
    """
    name = name or _name_of(config)
    check_name(name, "name")
    folder = work_folder(work_dir, name)
    settings = _settings(config, folder, list(cfg_options))

    from ..db import Store
    from ..db.frames import trial_frame
    from .exported import exported
    from .plans.plan import make_plan
    from .plans.start import reads_store
    from .run import run_search

    plan = make_plan(settings, folder)
    create = not (resume or reads_store(settings.search.start))
    if storage is None and create:
        make_work_folder(folder)
    patience = settings.resources.patience
    with Store(storage_url(storage, folder), create, patience) as store:
        result = run_search(plan, store, name, resume, Silent(), folder / f"{name}.json")
        table = trial_frame(store, result.search.id)
    best = exported(result.best, result.search)
    return SearchResult(best, result.best.score or 0.0, table, result)


def trials(
    name: str | None = None,
    *,
    work_dir: str | Path | None = None,
    storage: str | None = None,
) -> DataFrame:
    """The trials of a search, a row each; of all searches in the store without a name.

    The store is that of ``storage`` or ``work_dir``, by default of ``runs/NAME``.
    """
    from ..db import Store
    from ..db.frames import trial_frame

    with Store(storage_url(storage, work_folder(work_dir, name)), create=False) as store:
        return trial_frame(store, None if name is None else store.search(name).id)


def load_distiller(file: str | Path) -> Distiller:
    """Read a distiller file, or a shipped distiller by its name.

    Raises :class:`WrongUse`, naming the file, for one that is missing or not valid.
    """
    from ..configs import distiller_file

    return Distiller.from_json(distiller_file(str(file)))


def work_folder(work_dir: str | Path | None, name: str | None) -> Path:
    """``work_dir``, or by default the folder of a search of this name."""
    if work_dir is None and name is not None:
        check_name(Path(name).name, "name")
    return Path(work_dir).expanduser() if work_dir else Path("runs") / Path(name or "").name


def storage_url(storage: str | None, folder: Path) -> str:
    """``storage``, or by default the URL of the database in a work folder."""
    return storage or f"sqlite:///{folder / 'detkds.db'}"


def make_work_folder(folder: Path) -> None:
    """Raises :class:`WrongUse` if the folder can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"{folder}: can't make it: {error.strerror}", "work_dir") from None


def _name_of(config: Any) -> str:
    from ..settings import config_name

    if isinstance(config, str | Path):
        return config_name(str(config))
    raise WrongUse("give the search a name: its config has no file to be named after", "name")


def _settings(config: Any, folder: Path, cfg_options: list[str]) -> SearchConfig:
    from ..settings import SearchConfig, load_config
    from ..settings.load import validated

    if isinstance(config, str | Path):
        return load_config(str(config), cfg_options)
    if cfg_options:
        raise WrongUse("change the config itself: it is no file", "cfg_options")
    if isinstance(config, SearchConfig):
        return config
    sections = dict(config)
    if "student" in sections and not {"train", "synthetic"} & set(sections.get("data") or ()):
        from .plans.jobs import completed

        sections, _ = completed(sections, folder)
    return validated(SearchConfig, sections, "the config")
