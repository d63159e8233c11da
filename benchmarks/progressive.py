"""One teacher, both at once, or one after the other: the same student, data and epochs.

On the quickstart's synthetic shapes, its two teachers and a hand-made distiller: the student alone;
under the last teacher of the order only; under both at once, the mean of their two losses; along
the order; along the reverse of it. Test AP, mean and standard deviation over the seeds. What is
trained already in ``--work-dir`` is not trained again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detkds.cli.display import SearchDisplay
from detkds.configs import distiller_file
from detkds.db import Store
from detkds.detectors import Tap, TeacherMemory, signature
from detkds.distillers import DistillationLoss, DistilledDetector, boxes_of
from detkds.search.plans.models import trained
from detkds.search.plans.plan import Plan, make_plan
from detkds.search.plans.pool import PoolModel
from detkds.search.plans.trainings import run_training
from detkds.search.teachers.pool import ordered, run_order
from detkds.search.teachers.progressive import run_progressive
from detkds.settings import Model, load_config
from detkds.space import FEATURE_KNOWLEDGE, Distiller
from detkds.workers.runner import fit
from detkds.workers.student import SCORE, build_inputs, build_student, build_teacher
from rich.console import Console
from rich.table import Table
from spread import over_seeds
from torch import nn


class Ensemble(DistilledDetector):
    """A student under several teachers at once: the mean of their distillation losses."""

    def __init__(
        self, student: Any, teachers: list[Any], distiller: Distiller, memories: list[Any]
    ) -> None:
        super().__init__(student)
        self.form = distiller
        self.memories = memories
        ours = signature(student, "student")
        self.parts = nn.ModuleList(
            DistillationLoss(distiller, ours, signature(teacher, "teacher")) for teacher in teachers
        )

    def loss(self, batch_inputs: torch.Tensor, batch_data_samples: list) -> dict[str, Any]:
        boxes = [boxes_of(sample) for sample in batch_data_samples]
        responses = any(term.knowledge not in FEATURE_KNOWLEDGE for term in self.form.active)
        with Tap(self.student, responses=responses) as tap:
            losses = dict(self.student.loss(batch_inputs, batch_data_samples))
        ours = tap.knowledge
        for index, (part, memory) in enumerate(zip(self.parts, self.memories, strict=True)):
            theirs = memory(
                batch_inputs,
                batch_data_samples,
                responses=responses,
                regions=ours.regions,
            )
            for name, value in part(ours, theirs, boxes).items():
                losses[f"{name}_{index}"] = value / len(self.parts)
        return losses


def ensemble_score(
    plan: Plan, teachers: list[Model], form: Distiller, seed: int, folder: Path
) -> float:
    """Test AP of a student trained under all teachers at once, on one thread."""
    known = folder / f"ensemble-seed{seed}.json"
    if known.is_file():
        return json.loads(known.read_text())
    torch.set_num_threads(1)
    final, data = plan.config.final, plan.config.data
    assert final is not None
    inputs = build_inputs(plan.task.student, None, data, plan.train, plan.test)
    built = [build_teacher(teacher) for teacher in teachers]
    memories = [TeacherMemory(one, images=len(inputs.train_set), megabytes=1024) for one in built]
    model = Ensemble(build_student(plan.task.student, seed), built, form, memories)
    found = fit(
        model,
        inputs.train_set,
        final.schedule,
        folder / f"ensemble-seed{seed}",
        seed=seed,
        metric=inputs.metric,
        val_set=inputs.val_set,
    )
    known.write_text(json.dumps(found[SCORE]))
    return found[SCORE]


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
    arguments = parser.parse_args()
    seeds = list(range(arguments.seeds))
    options = [f"final.epochs={arguments.epochs}", f"final.seeds={seeds}"]
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    plan = make_plan(
        load_config(arguments.config, [*options, *arguments.cfg_options]),
        arguments.work_dir,
        pool=True,
    )
    name = Path(arguments.distiller).stem
    form = Distiller.from_json(distiller_file(arguments.distiller))
    rows: dict[str, list[float]] = {}
    url = f"sqlite:///{arguments.work_dir}/detkds.db"
    with Store(url) as store, SearchDisplay("") as display:
        pool = run_order(plan, store, display, images=1000)
        order = ordered(plan, pool)
        told = " → ".join(one.name for one in order)
        display.say(f"order: {told}; scores {pool.scores}; costs {pool.costs}")

        def along(teachers: list[PoolModel]) -> list[float]:
            suffix = "-".join([name, *(one.name for one in teachers)])
            found = run_progressive(plan, store, display, form, suffix, teachers)
            return last_scores(found, len(seeds))

        rows["student alone"] = last_scores(
            run_training(plan, store, display, None, "none"), len(seeds)
        )
        last = _under(plan, order[-1])
        rows[f"under {order[-1].name} only"] = last_scores(
            run_training(last, store, display, form, f"{name}-{order[-1].name}"), len(seeds)
        )
        jobs = [(plan, [o.model for o in order], form, s, arguments.work_dir) for s in seeds]
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            rows["under both at once"] = workers.starmap(ensemble_score, jobs)
        rows[f"progressively, {told}"] = along(order)
        rows["progressively, the reverse"] = along(order[::-1])
    table = Table("training", "AP", *(f"seed {seed}" for seed in seeds))
    for label, scores in rows.items():
        table.add_row(label, *over_seeds(scores))
    Console(width=120).print(table)


def _under(plan: Plan, teacher: PoolModel) -> Plan:
    """The same plan with this teacher, which is trained already, in its teacher's place."""
    model = teacher.model if teacher.training is None else trained(teacher.model, teacher.training)
    return replace(plan, teacher=None, task=plan.task.model_copy(update={"teacher": model}))


if __name__ == "__main__":
    main()
