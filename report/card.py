"""A model card in Markdown, to lie beside the student that a search trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from .. import __version__
from . import sections
from .facts import Facts
from .verdict import verdict


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: what a user named stands in code, where markup means nothing
    )
    environment.filters["code"] = as_code
    return environment.get_template("card.md")


def model_card(facts: Facts) -> str:
    """The card as Markdown. The search has a completed trial."""
    return _template().render(
        facts=facts,
        verdict=verdict(facts),
        finals=sections.finals(facts),
        student=_model(facts.section("student")),
        teacher=_model(facts.section("teacher")),
        version=__version__,
    )


def as_code(text: Any) -> str:
    """A text as inline code of one line, which no backtick in it can end, nor a pipe cut a table.

    >>> as_code("a`b|c")
    "`a'b/c`"
    """
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "/")
    return f"`{line}`"


def _model(section: dict[str, Any]) -> str:
    config = section.get("config")
    return str(config.get("type")) if isinstance(config, dict) else str(config or "none")
