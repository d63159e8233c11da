"""Distillers beside each other: the same student, data, learning rate, epochs and seeds.

The learning rate falls at two thirds and at eleven twelfths of the epochs, as detectors are trained
on COCO, so that stepwise weights have their milestones. Test AP, mean and standard deviation over
the seeds; ``none`` is the student alone. What is trained already in ``--work-dir`` is not trained
again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detkds.cli.display import SearchDisplay
from detkds.configs import distiller_file
from detkds.db import Store
from detkds.search.plans.plan import make_plan
from detkds.search.plans.trainings import run_training
from detkds.settings import load_config
from detkds.space import Distiller
from rich.console import Console
from rich.table import Table
from spread import QUICK, over_seeds

HAND_MADE = ["none", "pkd", "crosskd", "crosskd_pkd", "sssd", "sssd_stepwise"]


def falling(epochs: int) -> list[dict]:
    steps = [round(epochs * 2 / 3), round(epochs * 11 / 12)]
    return [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 10},
        {"type": "MultiStepLR", "milestones": steps, "by_epoch": True},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--distillers", nargs="+", default=HAND_MADE, help="names or files")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/distillers"))
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument(
        "--quick", action="store_true", help="2 epochs, one seed, the quickstart's data cut down"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.seeds = 2, 1
        arguments.cfg_options = [*QUICK, *arguments.cfg_options]
    seeds = list(range(arguments.seeds))
    options = [
        f"final.epochs={arguments.epochs}",
        f"final.seeds={seeds}",
        f"final.param_scheduler={falling(arguments.epochs)}",
        *arguments.cfg_options,
    ]
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    plan = make_plan(load_config(arguments.config, options), arguments.work_dir)
    forms = {
        Path(name).stem: None if name == "none" else Distiller.from_json(distiller_file(name))
        for name in arguments.distillers
    }
    table = Table("distiller", "AP", *(f"seed {seed}" for seed in seeds))
    url = f"sqlite:///{arguments.work_dir}/detkds.db"
    with Store(url) as store, SearchDisplay("") as display:
        for name, form in forms.items():
            found = run_training(plan, store, display, form, name)
            table.add_row(name, *over_seeds([float(outcome.score or 0) for _, outcome in found]))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
