"""The report's page: one HTML file with its style and script inside, which requests nothing.

The template escapes every text. The page's own policy forbids requests.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from . import sections
from .charts import search_curve
from .detections import detections
from .facts import Facts, points
from .options import LEAST, importances, shared_options
from .verdict import verdict

FOLDER = Path(__file__).parent / "page"
#: Options that are listed: those that good distillers share most, and those that they avoid most.
OPTIONS = 12


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = points
    environment.filters["duration"] = duration
    return environment


def render(facts: Facts) -> str:
    """The page as a whole HTML document."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            # Our own files, which are no text of a user: they are not escaped.
            style=Markup((FOLDER / "page.css").read_text("utf-8")),
            script=Markup((FOLDER / "page.js").read_text("utf-8")),
            version=__version__,
            facts=facts,
            verdict=verdict(facts),
            detections=detections(facts),
            curve=search_curve("All trials", facts.trials),
            stage_curves=_stage_curves(facts),
            options=_options(facts),
            least=LEAST,
            sections=sections,
        )
    )


def _stage_curves(facts: Facts) -> list:
    """A chart a stage; a search of one stage has it above already."""
    if len(facts.stages) < 2:
        return []
    return [search_curve(stage, trials) for stage, trials in facts.stages.items()]


def _options(facts: Facts) -> list[dict]:
    """What the good distillers share, stage by stage, where enough trials have completed."""
    found = []
    for stage in facts.stages:
        ranked = [trial for trial in facts.scored if trial.stage == stage]
        shares = shared_options(ranked)
        if shares:
            few = len(shares) <= 2 * OPTIONS
            by_evaluator = importances(ranked)
            first = next(iter(by_evaluator.values()), {})
            found.append(
                {
                    "stage": stage,
                    "trials": len(ranked),
                    "shares": shares if few else shares[:OPTIONS] + shares[-OPTIONS:],
                    "evaluators": list(by_evaluator),
                    "importances": [
                        (name, [values.get(name, 0.0) for values in by_evaluator.values()])
                        for name in list(first)[:OPTIONS]
                    ],
                }
            )
    return found


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
