"""The sections of a report below its first screen, each made of the rows of the store."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from ..db import TrainingRow, TrialRow
from ..search.exported import trained_distiller
from ..search.teachers.order import ALGORITHMS, Pool, teacher_order
from ..space import WEIGHTS_STAGE, Status, WrongUse
from ..workers import curves
from .charts import Chart, Line, Mark
from .facts import STUDENT, Facts, as_trained, named, points

#: Rows of a leaderboard.
LEADERS = 10
#: Points of a training curve.
CURVE_POINTS = 400


def spread(scores: Sequence[float]) -> str:
    """Mean ± sample standard deviation of APs, in points."""
    if not scores:
        return "–"
    text = points(mean(scores))
    return text if len(scores) == 1 else f"{text} ± {100 * stdev(scores):.1f}"


def contenders(facts: Facts) -> list[dict[str, Any]]:
    """The rows of the table of confirmation, the winner first."""
    record = facts.search.confirmation or {}
    return [
        {
            "title": named(one["title"]),
            "trial": points(one["trial_ap"]),
            "confirmed": spread(one["aps"]),
            "seeds": len(one["aps"]),
        }
        for one in record.get("contenders", ())
    ]


_METRICS = {"AP": "bbox_mAP", "AP50": "bbox_mAP_50", "AP75": "bbox_mAP_75"}
_METRICS |= {"APs": "bbox_mAP_s", "APm": "bbox_mAP_m", "APl": "bbox_mAP_l"}


def finals(facts: Facts) -> list[dict[str, Any]]:
    """Mean ± standard deviation over seeds of the trainings that were scored on the test images."""
    return [
        {
            "title": named(name),
            "seeds": len(rows),
            "metrics": [spread(_values(rows, metric)) for metric in _METRICS.values()],
            "checkpoint": rows[0].checkpoint or "",
        }
        for name, rows in _tested(facts).items()
    ]


def _tested(facts: Facts) -> dict[str, list[TrainingRow]]:
    groups: dict[str, list[TrainingRow]] = defaultdict(list)
    for row in facts.trainings:
        if row.split == "test" and row.status is Status.COMPLETED:
            groups[row.name].append(row)
    return groups


def _values(rows: Sequence[TrainingRow], metric: str) -> list[float]:
    """The values of a metric; COCO says -1 where no box has the size."""
    values = [row.metrics[metric] for row in rows if metric in row.metrics]
    return [value for value in values if value >= 0]


def leaders(facts: Facts) -> list[dict[str, Any]]:
    """The best distillers, each once, with the terms that they trained with."""
    once: dict[str, TrialRow] = {}
    for trial in facts.scored:
        once.setdefault(trial.key, trial)
    return [
        {
            "trial": trial.number,
            "stage": trial.stage,
            "title": facts.title(trial),
            "ap": points(trial.score),
            "notation": as_trained(trial),
        }
        for trial in list(once.values())[:LEADERS]
    ]


def stage_bests(facts: Facts) -> list[dict[str, Any]]:
    """The best trial of each stage."""
    rows = []
    for stage, trials in facts.stages.items():
        best = next((trial for trial in facts.scored if trial.stage == stage), None)
        if best is not None:
            rows.append(
                {
                    "stage": stage,
                    "trials": len(trials),
                    "ap": points(best.score),
                    "trial": best.number,
                    "notation": as_trained(best),
                }
            )
    return rows


@dataclass(frozen=True)
class WeightTable:
    """The best weights of the terms that the stages found: a column a knowledge."""

    knowledge: list[str]
    rows: list[dict[str, Any]]


def weights(facts: Facts) -> WeightTable | None:
    """The weights stage, the best vectors first; None without such a stage."""
    ranked = [trial for trial in facts.scored if trial.stage == WEIGHTS_STAGE][:LEADERS]
    if not ranked:
        return None
    knowledge = list(dict.fromkeys(term.knowledge for t in ranked for term in t.distiller.terms))
    rows = []
    for trial in ranked:
        vector = {term.knowledge: f"{term.weight:g}" for term in trial.distiller.terms}
        cells = [vector.get(name, "0") for name in knowledge]
        rows.append({"trial": trial.number, "ap": points(trial.score), "weights": cells})
    return WeightTable(knowledge, rows)


def savings(facts: Facts) -> list[dict[str, Any]]:
    """Why trials ended early, and the time that this saved against a completed trial."""
    own = [t.seconds for t in facts.scored if t.seconds is not None and t.reused_from is None]
    usual = median(own) if own else None
    groups: dict[tuple[str, str], list[TrialRow]] = defaultdict(list)
    for trial in facts.trials:
        if trial.reused_from is not None:
            groups["known", "scored before under the same conditions"].append(trial)
        elif trial.status in (Status.REJECTED, Status.STOPPED):
            reason = trial.reason or "no reason given"
            kind = "stopped halfway" if trial.status is Status.STOPPED else reason
            groups[trial.status.value, kind].append(trial)
        elif trial.status is Status.FAILED:
            groups["failed", trial.why or "no error"].append(trial)
    rows = []
    for (status, reason), trials in sorted(groups.items(), key=lambda item: -len(item[1])):
        saved = None
        if usual is not None and status != "failed":
            spent = [0.0 if status == "known" else (t.seconds or 0.0) for t in trials]
            saved = sum(max(usual - seconds, 0.0) for seconds in spent)
        rows.append({"status": status, "reason": reason, "trials": len(trials), "saved": saved})
    return rows


@dataclass(frozen=True)
class Agreement:
    """Proxy against final AP of the distillers that have both, and their rank correlation."""

    chart: Chart
    count: int
    tau: float | None
    p: float | None


def agreement(facts: Facts) -> Agreement | None:
    """None if fewer than two distillers were trained in full and scored on the test images."""
    best: dict[str, float] = {}
    for trial in facts.scored:
        best.setdefault(trial.key, trial.score or 0.0)
        best.setdefault(trained_distiller(trial).key, trial.score or 0.0)
    alone = facts.alone
    marks = []
    for name, rows in _tested(facts).items():
        distiller = rows[0].distiller
        key = distiller.key if distiller is not None else (alone.key if alone else "")
        scores = [row.score for row in rows if row.score is not None]
        if key in best and scores:
            text = f"{named(name)}: proxy {points(best[key])}, final {spread(scores)}"
            marks.append(Mark(100 * best[key], 100 * mean(scores), "completed", text))
    if len(marks) < 2:
        return None
    from scipy.stats import kendalltau  # not above: it takes a second

    tau = kendalltau([m.x for m in marks], [m.y for m in marks])
    number = None if tau.statistic != tau.statistic else float(tau.statistic)
    chart = Chart("Final AP against proxy AP", "proxy AP", "test AP", marks, whole_x=False)
    return Agreement(chart, len(marks), number, None if number is None else float(tau.pvalue))


@dataclass(frozen=True)
class TeacherCosts:
    """Adaptation costs: ``cells[i][j]`` is (text, heat from 0 to 1) from name i to name j."""

    names: list[str]
    cells: list[list[tuple[str, float | None]]]
    images: int
    measured: str
    orders: list[tuple[str, str]]
    reason: str


def teacher_costs(facts: Facts) -> TeacherCosts | None:
    """The heat map, and the orders if the config has all teachers' APs; None without costs."""
    if not facts.costs:
        return None
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for row in facts.costs:
        table[row.source][row.target] = row.cost
    known = {*table, *(target for row in table.values() for target in row)}
    names = [STUDENT, *facts.section("teachers")]
    names = [name for name in names if name in known]
    values = sorted(cost for row in table.values() for cost in row.values())

    def cell(source: str, target: str) -> tuple[str, float | None]:
        cost = table.get(source, {}).get(target)
        if cost is None:
            return "–", None
        rank = sum(value < cost for value in values)  # costs differ by orders of magnitude
        return f"{cost:.3g}", rank / max(len(values) - 1, 1)

    orders, reason = _orders(facts, table)
    last = facts.costs[-1]
    return TeacherCosts(
        names,
        [[cell(a, b) for b in names] for a in names],
        last.images,
        f"{last.created:%Y-%m-%d %H:%M} UTC",
        orders,
        reason,
    )


def _orders(facts: Facts, table: dict[str, dict[str, float]]) -> tuple[list[tuple[str, str]], str]:
    teachers = facts.section("teachers")
    scores = {name: (teachers[name] or {}).get("score") for name in teachers}
    if any(score is None for score in scores.values()):
        return [], "The store has no AP of every teacher: detkds teachers CONFIG prints the order."
    orders, reason = [], ""
    try:
        pool = Pool(STUDENT, scores, table)  # type: ignore[arg-type]
        for name in ALGORITHMS:
            order = teacher_order(pool, name)
            orders.append((name, " → ".join(order.teachers)))
            reason = reason or f"{name} stops: {order.reason}"
    except WrongUse as error:
        reason = error.message
    return orders, reason


def training_curves(facts: Facts) -> list[Chart]:
    """The loss, and the AP of validations, of each training whose log lies beside its checkpoint.

    mmengine writes the log.
    """
    charts = []
    for row in facts.trainings:
        if row.split != "test" or not row.checkpoint:
            continue
        folder, title = Path(row.checkpoint).parent, f"{named(row.name)}, seed {row.seed}"
        series = curves.losses(folder)
        if len(series) > 1:
            line = Line(series[:: -(-len(series) // CURVE_POINTS)], "best")
            charts.append(Chart(title, "iteration", "loss", (), [line]))
        aps = [(float(epoch), 100 * ap) for epoch, ap in curves.validations(folder)]
        if len(aps) > 1:
            marks = [Mark(x, y, "completed", f"epoch {x:.0f}: AP {y:.1f}") for x, y in aps]
            charts.append(Chart(title, "epoch", "AP", marks, [Line(aps, "best")]))
    return charts


def repeat(facts: Facts) -> list[tuple[str, str]]:
    """What a repetition needs, besides the config."""
    search = facts.search
    devices = Counter(t.device for t in facts.trials if t.device)
    hosts = sorted({t.host for t in facts.trials if t.host} | {search.host})
    seeds = sorted({row.seed for row in facts.trainings})
    return [
        ("search", search.name),
        ("begun", f"{search.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("detkds", search.version),
        ("seed of the search and its trials", str(search.seed)),
        ("seeds of the trainings", ", ".join(map(str, seeds)) or "–"),
        ("conditions of the scores", search.conditions),
        ("hosts", ", ".join(hosts)),
        (
            "devices",
            ", ".join(f"{name} ({count} trials)" for name, count in devices.items()) or "–",
        ),
    ]


def config_text(facts: Facts) -> str:
    return json.dumps(facts.search.config, indent=2, ensure_ascii=False, default=str)
