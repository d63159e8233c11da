"""A search's configuration: an mmengine config file, checked whole before anything starts."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from mmengine.config import Config
from pydantic import BaseModel, Field, ValidationError, model_validator

from ..configs import search_config
from ..space import KNOWLEDGE, WrongUse, nearest
from ..workers.settings import Data, Model, Resources, Schedule, Settings, Split, TrialSchedule
from .algorithms import EvolutionSettings


class Proxy(Settings):
    """How many training images the trials train and are scored on, drawn by ``seed``.

    Or the two splits themselves, ``train`` and ``val``, as ``detkds proxy`` writes them.
    """

    train_images: int = 0
    val_images: int = 0
    seed: int = 0
    train: Split | None = None
    val: Split | None = None

    @model_validator(mode="after")
    def _both(self) -> Proxy:
        if (self.train is None) != (self.val is None):
            raise ValueError("give both proxy.train and proxy.val, or neither")
        return self


Knowledge = Literal[
    "global",
    "fgbg",
    "instance",
    "logits",
    "localization",
    "cross_logits",
    "cross_localization",
    "label",
]


class Search(Settings):
    """The space and Algorithm 1's numbers, the paper's by default.

    ``knowledge``: the stages; None takes all that the pair of detectors can share. ``start``: what
    populations start from, presets, distiller files, terms in arrow notation or ``search:NAME``.
    """

    space: Literal["detkds", "extended"] = "detkds"
    knowledge: list[Knowledge] | None = None
    start: list[str] = []
    population: int = Field(default=20, ge=1)
    iterations: int = Field(default=40, ge=0)
    sample_ratio: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=5, ge=1)
    weights: int = Field(default=40, ge=1)
    seed: int = 0

    @property
    def evolution(self) -> EvolutionSettings:
        return EvolutionSettings(
            self.population, self.iterations, self.sample_ratio, self.top_k, self.weights
        )


PROGRESSIVE = "progressive"


class Final(Schedule):
    """The full trainings after a search: each of ``compare`` under each of ``seeds``.

    ``compare``: ``none`` (the student alone), ``found``, a preset's name, a distiller file, or
    ``progressive``: the found distiller along the order of the config's ``teachers``.
    """

    seeds: list[int] = Field(default=[0], min_length=1)
    compare: list[str] = ["none", "pkd", "found"]


class Teacher(Model):
    """One of several teachers. ``score``: its AP in points, measured on the proxy if left out.

    Without a checkpoint and a schedule it is trained by the schedule of ``teacher``.
    """

    score: float | None = None


class SearchConfig(Settings):
    """Everything a search is told.

    ``teacher``: None for a search of ``label`` alone, which learns from the labels.
    ``teachers``, by name: those that a teacher order is made of.

    ``inherit``: a distilled student starts from its teacher's neck and head, as far as they fit.
    """

    student: Model
    teacher: Model | None = None
    teachers: dict[str, Teacher] = {}
    inherit: bool = False
    data: Data
    proxy: Proxy
    trial: TrialSchedule
    final: Final | None = None
    search: Search = Search()
    resources: Resources = Resources()


def load_config(reference: str, options: Iterable[str] = ()) -> SearchConfig:
    """Read a search config by path or by the name of one that is shipped.

    ``options``: ``a.b.c=value`` as mmengine's ``--cfg-options`` takes them. Raises
    :class:`WrongUse`, naming the file and the option, for a config that is not right.
    """
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
            raise WrongUse(f"--cfg-options {option}: no section '{top}': {nearest(top, known)}")
    try:
        config.merge_from_dict(dict(_option(option) for option in options))
    except (KeyError, TypeError) as error:
        raise WrongUse(f"--cfg-options: {error}") from None
    # A config may define variables and functions for its own use.
    given = {k: v for k, v in config.to_dict().items() if k in known}
    try:
        return SearchConfig.model_validate(given)
    except ValidationError as error:
        raise WrongUse(f"{path}: {_explain(error)}") from None


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise WrongUse(f"--cfg-options {text}: write it as key=value")
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
    if "knowledge" in where and first["type"] == "literal_error":
        return (
            f"{where}: unknown knowledge '{first['input']}': {nearest(first['input'], KNOWLEDGE)}"
        )
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
    """The search's name where none is given: the config's."""
    return Path(reference).stem
