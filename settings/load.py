"""Reading a search config: an mmengine config file and the options merged into it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..configs import search_config
from ..space import WrongUse, nearest
from .search import SearchConfig


def load_config(reference: str, options: Iterable[str] = ()) -> SearchConfig:
    """Read a search config by path or by the name of one that is shipped.

    ``options``: ``a.b.c=value``, merged into the config as mmengine does. Raises :class:`WrongUse`,
    naming the file or the option, for a wrong config.
    """
    from mmengine.config import Config  # not above: the sections alone need no mmengine

    path, pair = search_config(reference)
    options = list(options)
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(pair)
    except (SyntaxError, OSError, NameError, KeyError, TypeError, AttributeError) as error:
        raise WrongUse(f"{path}: can't read the config: {error}") from None
    known = SearchConfig.model_fields
    for option in options:
        top = option.split("=", 1)[0].split(".", 1)[0]
        if top not in known:
            raise WrongUse(f"{option}: no section '{top}': {nearest(top, known)}", "cfg_options")
    try:
        config.merge_from_dict(dict(_option(option) for option in options))
    except (KeyError, TypeError) as error:
        raise WrongUse(str(error), "cfg_options") from None
    # A config may define variables and functions for its own use.
    given = {k: v for k, v in config.to_dict().items() if k in known}
    try:
        return SearchConfig.model_validate(given)
    except ValidationError as error:
        raise WrongUse(f"{path}: {_explain(error)}") from None


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
    """The name of a search whose user gives none: the config's name."""
    return Path(reference).stem
