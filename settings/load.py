"""Reading a search config: an mmengine config file and the options merged into it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ..configs import PAPER, search_config
from ..space import WrongUse, nearest
from .models import moved
from .search import SearchConfig

Validated = TypeVar("Validated", bound=BaseModel)


def load_config(reference: str, options: Iterable[str] = ()) -> SearchConfig:
    """Read a search config by path or by the name of one that is shipped.

    ``options``: as for :func:`read_sections`. Raises :class:`WrongUse`, naming the file or the
    option, for a wrong config.
    """
    path, _ = search_config(reference)
    return validated(SearchConfig, read_sections(reference, options), str(path))


def read_sections(reference: str, options: Iterable[str] = ()) -> dict[str, Any]:
    """The sections of a search config as they are written, with the options in them.

    ``options``: ``a.b.c=value``, merged into the config as mmengine does; where they change a
    schedule's ``epochs`` and not its ``param_scheduler``, the milestones move along.
    """
    path, layers = search_config(reference)
    config = read_config(path)
    for layer in layers:
        _merge(config, layer)
    known = SearchConfig.model_fields
    changes = read_options(options)
    for key in changes:
        top = key.partition(".")[0]
        if top not in known:
            raise WrongUse(f"{key}: no section '{top}': {nearest(top, known)}", "cfg_options")
    try:
        _merge(config, changes)
    except (KeyError, TypeError) as error:
        raise WrongUse(str(error), "cfg_options") from None
    whole = config.to_dict()
    if "model" in whole and "proxy" not in whole:
        raise WrongUse(
            f"{path}: it is a model's config, not a search config: give it as --student, with "
            "--teacher and --teacher-checkpoint, or name it in a search config's section student"
        )
    # A config may define variables and functions for its own use.
    return {k: v for k, v in whole.items() if k in known}


def read_config(path: Path) -> Any:
    """The mmengine ``Config`` of a file, ``.py`` or ``.json``.

    A config is a program: reading it runs it, and the configs that it builds on. YAML looks like
    data, and mmengine would run commands in it: it is refused, and a YAML file that a config builds
    on is read as data. Raises :class:`WrongUse` for a config that can't be read.
    """
    from mmengine.config import Config  # not above: the sections alone need no mmengine
    from mmengine.fileio.handlers import yaml_handler
    from yaml import SafeLoader

    if path.suffix not in (".py", ".json"):
        raise WrongUse(f"{path}: a config is a .py or .json file: write it as one of these")
    yaml_handler.Loader = SafeLoader
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config may raise anything
        reason = f"{error}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise WrongUse(f"{path}: can't read the config: {reason}") from None


def read_options(options: Iterable[str]) -> dict[str, Any]:
    """``key=value``s as a dictionary, the values as Python reads them."""
    return dict(_option(option) for option in options)


def merge(sections: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with changes merged into them; both are nested, or have paths (``a.b.c``) as keys.

    New epochs move the milestones along, unless these are new as well.
    """
    from mmengine.config import Config

    config = Config(dict(sections))
    try:
        _merge(config, dict(changes))
    except (KeyError, TypeError) as error:
        raise WrongUse(str(error), "cfg_options") from None
    return config.to_dict()


def validated(kind: type[Validated], given: Any, name: str) -> Validated:
    """``given`` as a section of this kind. Raises :class:`WrongUse` that begins with ``name``."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise WrongUse(f"{name}: {_explain(error)}") from None


def _merge(config: Any, options: dict[str, Any]) -> None:
    """Merge options into a config. New epochs move the milestones, unless these are new as well."""
    given = dict(_leaves(options))
    schedules = [key.removesuffix(".epochs") for key in given if key.endswith(".epochs")]
    before = {key: at(config, f"{key}.epochs") for key in schedules}
    config.merge_from_dict(options)
    for key, epochs in before.items():
        now, schedulers = given[f"{key}.epochs"], at(config, f"{key}.param_scheduler")
        own = any(name.startswith(f"{key}.param_scheduler") for name in given)
        # Epochs that are no numbers are refused with the whole config.
        if schedulers and not own and _is_count(epochs) and _is_count(now):
            config.merge_from_dict({f"{key}.param_scheduler": moved(schedulers, epochs, now)})


def _leaves(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested options by their whole paths, ``a.b.c``."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def at(config: Any, path: str) -> Any:
    """The value of a config at a path, or None."""
    value = config
    for name in path.split("."):
        value = value.get(name) if hasattr(value, "get") else None
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise WrongUse(f"{text}: write it as key=value", "cfg_options")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, {"true": True, "false": False, "none": None}.get(value.lower(), value)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown option {where}: {nearest(first['loc'][-1], _fields(first['loc'][:-1]))}"
    if "knowledge" in where and first["type"] == "value_error":
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    if not where:
        return first["msg"].removeprefix("Value error, ")
    shown = f" (found {first['input']!r:.60})"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{shown}"


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """The options of the section at ``path``."""
    section: Any = SearchConfig
    for part in path:
        annotation = section.model_fields[part].annotation
        kinds = [annotation, *get_args(annotation)]
        section = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return list(section.model_fields)


def config_name(reference: str) -> str:
    """The name of a search whose user gives none: the config's name.

    >>> config_name("runs/bccd/bccd.search.py")  # as a search leaves it
    'bccd'
    """
    if reference.startswith(PAPER):
        return reference.removeprefix(PAPER).replace("/", "-")
    return Path(reference).stem.removesuffix(".search").removesuffix(".train")
