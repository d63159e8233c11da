"""Does a search pay? What searches find, against every preset and the student alone.

On each problem of ``problems.py``: searches with seeds 0, 1, … by random sampling, by Algorithm 1
as DetKDS has it, and by the default, each with as many trials and its own confirmation; then full
trainings, test AP. Pair number s is the distiller that the search with seed s exports, and every
preset, all trained under seed s. The best preset is the preset of the highest mean over all seeds:
a choice by the test split that no user has, and that no search makes.

``p`` is the one-sided p-value of a paired t-test that a row is better than the best preset. What is
in ``--work-dir`` already is not searched or trained again, so a run may be killed and go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from detkds.cli.display import SearchDisplay
from detkds.db import Store
from detkds.search.plans.plan import Plan, student_training
from detkds.search.plans.start import start_distillers
from detkds.search.plans.trainings import ready, train_all
from detkds.search.run import run_search
from detkds.settings import PRESETS
from detkds.space import NONE, WrongUse
from problems import PROBLEMS, plan_of
from rich.console import Console
from rich.table import Table
from scipy import stats
from spread import over_seeds

#: The searches, by name, with their options. All take the trials of the problem's config.
SEARCHES = {
    "random": ["search.algorithm=random"],
    "algorithm1": [
        "search.algorithm=algorithm1",
        "search.divide=True",
        "search.trials=None",
        "search.space=detkds",
        "search.start=[]",
        "search.population=3",
        "search.iterations=1",
        "search.top_k=2",
        "search.weights=15",
    ],
    "default": [],
}


class Problem:
    """A problem in its folder, with one store for all searches and trainings."""

    def __init__(self, name: str, folder: Path, data: Path | None, options: list[str]) -> None:
        self.name, self.folder, self.data, self.options = name, folder, data, options
        folder.mkdir(parents=True, exist_ok=True)

    def plan(self, seed: int, search: Sequence[str] = ()) -> Plan:
        own = [*self.options, *search, f"search.seed={seed}"]
        own += ["final.compare=['found']", f"final.seeds=[{seed}]"]
        return plan_of(self.name, "scratch", self.folder, self.data, own)

    def file(self, search: str, seed: int) -> Path:
        """Where a search's distiller lies."""
        return self.folder / f"{search}-{seed}.json"

    def found(
        self, search: str, options: Sequence[str], seed: int, store: Store, display: SearchDisplay
    ) -> float:
        """The test AP of what a search with these options exports."""
        plan, file = self.plan(seed, options), self.file(search, seed)
        resume = store.find_search(file.stem) is not None
        result = run_search(plan, store, file.stem, resume, display, file)
        return float(result.trainings[0][1].score or 0.0)

    def presets(
        self, named: Sequence[str], seeds: int, store: Store, display: SearchDisplay
    ) -> dict[str, list[float]]:
        """The test AP of the student alone and of the presets, by seed."""
        plan = self.plan(0)
        known = {one.name or "": one for one in start_distillers([NONE, *named], plan.space, None)}
        trainings = [
            student_training(plan, name, one if one.active else None, seed)
            for seed in range(seeds)
            for name, one in known.items()
        ]
        with ready(plan, display):
            train_all(plan.preliminary, plan, display, store)
            outcomes = iter(train_all(trainings, plan, display, store))
        scores: dict[str, list[float]] = {name: [] for name in known}
        for _ in range(seeds):
            for name in known:
                scores[name].append(float(next(outcomes).score or 0.0))
        return scores


def row(name: str, scores: list[float], best: list[float]) -> list[str]:
    """A row of the table: AP by seed, and the lead over the best preset with its p-value."""
    if scores is best or len(scores) < 2:
        return [name, *over_seeds(scores), "", ""]
    lead = 100 * (np.array(scores) - np.array(best))
    p = stats.ttest_rel(scores, best, alternative="greater").pvalue
    return [name, *over_seeds(scores), f"{lead.mean():+.1f} ± {lead.std(ddof=1):.1f}", f"{p:.3f}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What benchmarks of whole searches are asked for."""
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="the folder of a problem with COCO files")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/search_pays"))
    parser.add_argument("--cfg-options", nargs="*", default=[])


@contextmanager
def opened(
    name: str, arguments: argparse.Namespace
) -> Iterator[tuple[Problem, Store, SearchDisplay]]:
    """A problem in its folder below ``--work-dir``, with its store."""
    if PROBLEMS[name].own_data and arguments.data is None:
        raise WrongUse(f"the problem '{name}' has COCO files; give their folder", "--data")
    folder, data = arguments.work_dir / name, arguments.data and arguments.data.absolute()
    problem = Problem(name, folder, data, arguments.cfg_options)
    with Store(f"sqlite:///{folder.absolute()}/detkds.db") as store, SearchDisplay("") as display:
        yield problem, store, display


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["quickstart"])
    parser.add_argument("--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument(
        "--presets", nargs="+", default=[PRESETS], help="by default, all that the pair can share"
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    for name in arguments.problems:
        with opened(name, arguments) as (problem, store, display):
            scores = problem.presets(arguments.presets, arguments.seeds, store, display)
            best = scores[max((n for n in scores if n != NONE), key=lambda n: np.mean(scores[n]))]
            for search in arguments.searches:
                scores[f"found by {search}"] = [
                    problem.found(search, SEARCHES[search], seed, store, display)
                    for seed in range(arguments.seeds)
                ]
        table = Table("distiller", "AP", *map(str, range(arguments.seeds)), "lead", "p", title=name)
        for one in sorted(scores, key=lambda one: -np.mean(scores[one])):
            table.add_row(*row(one, scores[one], best))
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
