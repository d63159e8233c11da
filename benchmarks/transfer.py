"""Transfer: what a distiller that was found on one problem is worth on another.

On the problem ``--to``, full trainings, test AP: the student alone; the distiller that the search
on ``--from`` with seed s exports, without a search; what the problem's own search exports; and what
it exports with a quarter of the trials, when it starts from the other problem's distiller and the
student alone, or from the student alone. Number s of each is trained under seed s.

``p`` is the one-sided p-value of a paired t-test that a row is better than the problem's own
search. The folder is that of ``search_pays.py``: what was searched or trained there is not searched
or trained again.
"""

from __future__ import annotations

import argparse
import math

from detkds.cli.display import SearchDisplay
from detkds.db import Store
from detkds.search.plans.full import student_training
from detkds.search.plans.trainings import ready, train_all
from detkds.space import NONE, Distiller, WrongUse
from problems import PROBLEMS
from rich.console import Console
from rich.table import Table
from search_pays import Problem, add_arguments, opened, row

#: The name of the default search, as in ``search_pays.py``.
OWN = "default"


def transferred(
    problem: Problem, found: list[Distiller], store: Store, display: SearchDisplay
) -> dict[str, list[float]]:
    """The test AP of the student alone and of other problems' distillers, by seed."""
    plan = problem.plan(0)
    trainings = [
        student_training(plan, name, distiller, seed)
        for seed, other in enumerate(found)
        for name, distiller in ((NONE, None), ("transferred", other))
    ]
    with ready(plan, display):
        train_all(plan.preliminary, plan, display, store)
        scores = [one.score or 0.0 for one in train_all(trainings, plan, display, store)]
    return {NONE: scores[::2], "found there, trained here": scores[1::2]}


def quarter(problem: Problem, start: list[str]) -> list[str]:
    """The options of a search with a quarter of the trials."""
    whole = problem.plan(0).config.search.trials
    if whole is None:
        raise WrongUse("a search with stages has no number of trials", "search.trials")
    return [f"search.trials={math.ceil(whole / 4)}", f"search.start={start}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", choices=list(PROBLEMS), default="quickstart")
    parser.add_argument("--to", dest="target", choices=list(PROBLEMS), default="crowd")
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.source == arguments.target:
        parser.error(f"--from and --to are both '{arguments.source}': name two problems")
    seeds = range(arguments.seeds)
    with opened(arguments.source, arguments) as (there, store, display):
        for seed in seeds:
            there.found(OWN, [], seed, store, display)
    files = [there.file(OWN, seed) for seed in seeds]
    with opened(arguments.target, arguments) as (here, store, display):
        scores = transferred(here, [Distiller.from_json(one) for one in files], store, display)
        own = [here.found(OWN, [], seed, store, display) for seed in seeds]
        scores["found here"] = own
        starts = {
            "transferred": [[NONE, str(one.absolute())] for one in files],
            NONE: [[NONE]] * len(files),
        }
        for name, start in starts.items():
            scores[f"found here in a quarter of the trials, from {name}"] = [
                here.found(f"quarter-{name}", quarter(here, start[seed]), seed, store, display)
                for seed in seeds
            ]
    title = f"from {arguments.source} to {arguments.target}"
    table = Table("distiller", "AP", *map(str, seeds), "lead over its own", "p", title=title)
    for name, found in scores.items():
        table.add_row(*row(name, found, own))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
