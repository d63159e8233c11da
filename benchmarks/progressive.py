"""One teacher, both at once, or one after the other: the same student, data and epochs.

On the quickstart's synthetic shapes, its two teachers and a hand-made distiller: the student alone;
under the last teacher of the order only; under both at once, the mean of their two losses; along
the order; along the reverse of it. Every student starts from nothing, so that all have the same
epochs; with ``--cfg-options final.off_the_shelf=True``, students under several teachers start from
the student alone and have twice the epochs, as in MTPD. Test AP, mean and standard deviation over
the seeds. What is trained already in ``--work-dir`` is not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkds.cli.display import SearchDisplay
from detkds.configs import distiller_file
from detkds.db import Store
from detkds.search.plans.models import trained
from detkds.search.plans.plan import Plan, make_plan
from detkds.search.plans.pool import PoolModel
from detkds.search.plans.trainings import run_training
from detkds.search.teachers.pool import ordered, run_order
from detkds.search.teachers.progressive import run_progressive
from detkds.search.teachers.simultaneous import run_simultaneous
from detkds.settings import load_config
from detkds.space import Distiller
from rich.console import Console
from rich.table import Table
from spread import QUICK, over_seeds


def last_scores(results: list[Any], seeds: int) -> list[float]:
    return [float(outcome.score) for _, outcome in results[-seeds:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8, help="of every training, all stages")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--distiller", default="pkd")
    parser.add_argument("--config", default="quickstart", help="one with a section `teachers`")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/progressive"))
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument(
        "--quick", action="store_true", help="2 epochs, one seed, little data, two of the trainings"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.seeds = 2, 1
        arguments.cfg_options = [*QUICK, *arguments.cfg_options]
    seeds = list(range(arguments.seeds))
    options = [
        f"final.epochs={arguments.epochs}",
        f"final.seeds={seeds}",
        "final.off_the_shelf=False",
    ]
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    plan = make_plan(
        load_config(arguments.config, [*options, *arguments.cfg_options]),
        arguments.work_dir,
        pool=True,
    )
    name = Path(arguments.distiller).stem
    distiller = Distiller.from_json(distiller_file(arguments.distiller))
    rows: dict[str, list[float]] = {}
    url = f"sqlite:///{arguments.work_dir}/detkds.db"
    with Store(url) as store, SearchDisplay("") as display:
        pool = run_order(plan, store, display, images=1000)
        order = ordered(plan, pool)
        told = " → ".join(one.name for one in order)
        display.say(f"order: {told}; scores {pool.scores}; costs {pool.costs}")

        def along(teachers: list[PoolModel]) -> list[float]:
            suffix = "-".join([name, *(one.name for one in teachers)])
            found = run_progressive(plan, store, display, distiller, suffix, teachers)
            return last_scores(found, len(seeds))

        if not arguments.quick:
            alone = run_training(plan, store, display, None, "none")
            rows["student alone"] = last_scores(alone, len(seeds))
            last = _under(plan, order[-1])
            under = run_training(last, store, display, distiller, f"{name}-{order[-1].name}")
            rows[f"under {order[-1].name} only"] = last_scores(under, len(seeds))
        both = run_simultaneous(plan, store, display, distiller, name, order)
        rows["under both at once"] = last_scores(both, len(seeds))
        rows[f"progressively, {told}"] = along(order)
        if not arguments.quick:
            rows["progressively, the reverse"] = along(order[::-1])
    table = Table("training", "AP", *(f"seed {seed}" for seed in seeds))
    for label, scores in rows.items():
        table.add_row(label, *over_seeds(scores))
    Console(width=120).print(table)


def _under(plan: Plan, teacher: PoolModel) -> Plan:
    """The same plan under this teacher, which is trained already."""
    model = teacher.model if teacher.training is None else trained(teacher.model, teacher.training)
    return replace(plan, teacher=None, task=plan.task.model_copy(update={"teacher": model}))


if __name__ == "__main__":
    main()
