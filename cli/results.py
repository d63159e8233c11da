"""The tables of what a search or a training leaves: metrics, checkpoints, the best distiller."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from ..report.sections import spread
from ..search.exported import trained_distiller, unlearned
from ..settings import FOUND
from ..space import NONE, Outcome
from ..workers.curves import best_checkpoint, validations
from .console import console
from .listing import in_points

if TYPE_CHECKING:
    from ..search.confirmation import Confirmation
    from ..search.inspection import Inspected
    from ..search.run import Result
    from ..workers.training import Training

#: What tables call the training without a distiller.
ALONE = "student alone"
#: The ends of COCO's metric names, in the order of the columns.
_ENDS = ("", "_50", "_75", "_s", "_m", "_l")


def final_table(result: Result) -> None:
    """What was confirmed, the distiller, the final trainings, and where the files are."""
    if result.confirmation is not None:
        confirmation_table(result.confirmation)
    warning = unlearned(result.best)
    if warning is None:
        best = result.best
        console.print(
            f"\nbest distiller, proxy AP {in_points(best.score)}:\n{trained_distiller(best)}\n"
        )
    else:
        console.print(f"\n{warning}\n", style="bold", soft_wrap=True)
    if result.trainings:
        training_table(result.trainings)
        for line in losses_of(FOUND, result.trainings):
            console.print(line, style="bold", soft_wrap=True, highlight=False)
    console.print(f"distiller: {result.distiller_file}", soft_wrap=True, highlight=False)


def confirmation_table(confirmation: Confirmation) -> None:
    """The contenders under fresh seeds, how far the winner leads, and whether it was found."""
    table = Table(title="confirmed: AP on the proxy under fresh seeds", title_justify="left")
    table.add_column("distiller")
    for column in ("AP in its trial", "mean ± standard deviation", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in confirmation.contenders:
        name = ALONE if one.name == NONE else one.title
        score = f"{100 * (one.trial.score or 0.0):.1f}"
        table.add_row(name, score, _spread(list(one.scores)), str(len(one.scores)))
    console.print(table)
    winner, rival = confirmation.winner, confirmation.rival
    if winner.name is not None:
        what = "no distillation at all" if winner.name == NONE else f"the preset {winner.name}"
        console.print(f"no found distiller is better than {what}, which is exported", style="bold")
    if rival is None or confirmation.leads is None:
        return
    first, confirmed = (100 * lead for lead in confirmation.leads)
    console.print(
        f"{winner.title} leads {rival.title} by {confirmed:.1f} AP under fresh seeds; in the "
        f"trials it was {first:.1f}"
    )
    if confirmation.probability is not None:
        console.print(
            f"probability that {winner.title} is better, paired over seeds: "
            f"{confirmation.probability:.2f}"
        )


def inspection_tables(found: Inspected) -> None:
    """How long each kind of step takes and what it holds; then the whole, stage by stage."""
    steps = Table(title="steps, as trials have them", title_justify="left")
    steps.add_column("step of")
    for column in ("ms an image", "peak MiB"):
        steps.add_column(column, justify="right", no_wrap=True)
    for step in found.steps:
        steps.add_row(step.name, f"{1000 * step.seconds:.1f}", f"{step.megabytes:.0f}")
    console.print(steps)
    title = f"the whole at most, {found.workers} side by side"
    whole = Table(title=title, title_justify="left")
    whole.add_column("stage")
    for column in ("trainings", "epochs", "images an epoch", "hours"):
        whole.add_column(column, justify="right", no_wrap=True)
    hours = [found.hours(one) for one in found.work]
    for one, time in zip(found.work, hours, strict=True):
        cells = str(one.trainings), str(one.epochs), str(one.images)
        whole.add_row(one.stage, *cells, f"{time:.2f}")
    whole.add_row(
        "in all", str(sum(one.trainings for one in found.work)), "", "", f"{sum(hours):.2f}"
    )
    console.print(whole)


def training_table(trainings: list[tuple[Training, Outcome]]) -> None:
    """Mean and spread over seeds of every distiller's final metrics, and the checkpoints."""
    groups: dict[str, list[tuple[Training, Outcome]]] = defaultdict(list)
    for training, outcome in trainings:
        groups[training.name].append((training, outcome))
    seeds = max(len(group) for group in groups.values())
    split = "test" if trainings[0][0].test else "no test"
    console.print(f"final training, {split} split, {seeds} seed(s), mean ± standard deviation:")
    table = Table()
    for column in ("distiller", "AP", "AP50", "AP75", "APs", "APm", "APl"):
        justify: Any = "left" if column == "distiller" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for name, group in groups.items():
        metrics = [outcome.metrics for _, outcome in group]
        cells = [_spread([m.get(f"bbox_mAP{end}", float("nan")) for m in metrics]) for end in _ENDS]
        table.add_row(ALONE if name == NONE else name, *cells)
    console.print(table)
    for name, group in groups.items():
        console.print(f"{name}: {group[0][0].checkpoint}", soft_wrap=True, highlight=False)
    for training, _ in trainings:
        for line in curve_lines(training):
            console.print(line, soft_wrap=True, highlight=False)


def curve_lines(training: Training) -> list[str]:
    """The AP of each validation within a training, and the file of the best student; or nothing."""
    folder = Path(training.folder)
    aps = validations(folder)
    if len(aps) < 2:
        return []
    points = ", ".join(f"{epoch}: {in_points(ap)}" for epoch, ap in aps)
    lines = [f"{training.name}, seed {training.seed}: AP by epoch: {points}"]
    best = best_checkpoint(folder)
    if best is not None:
        epoch, ap = max(aps, key=lambda one: (one[1], -one[0]))
        chosen = "data.val" if training.val else "the test split"
        lines.append(f"  best after epoch {epoch}, {in_points(ap)} on {chosen}: {best}")
    return lines


def losses_of(name: str, trainings: list[tuple[Training, Outcome]]) -> list[str]:
    """To whom the distiller of this name loses in the final trainings, by mean AP; a line each."""
    scores: dict[str, list[float]] = defaultdict(list)
    for training, outcome in trainings:
        if outcome.score is not None and training.test is not None:
            scores[training.name].append(outcome.score)
    means = {one: 100 * float(np.mean(values)) for one, values in scores.items()}
    own = means.pop(name, None)
    return [
        f"the {name} distiller loses to {f'the {ALONE}' if one == NONE else one}: "
        f"{own:.1f} against {mean:.1f} AP on the test split"
        for one, mean in means.items()
        if own is not None and mean >= own
    ]


def _spread(values: list[float]) -> str:
    """Mean ± sample standard deviation of values in [0, 1], in points; "-" if one is missing."""
    return spread(values) if all(value >= 0 for value in values) else "-"
