"""Which options the good distillers share, and how much each option matters.

A trial is a set of parameters: for each kind of knowledge, whether the distiller has it, its
transforms by slot, its distance, weight and schedule. The same parameters make Optuna's study.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..db import TrialRow
from ..space import Distiller, Status
from ..space.options import EXTENDED

#: The slots of kinds of knowledge with three transforms, in the order in which these are applied.
SLOTS = ("attention", "scale", "normalise")
ABSENT, PRESENT = "absent", "present"
#: The share of trials that count as good.
TOP = 0.1
#: So many completed trials make a top decile.
LEAST = 20
#: A forest is grown on so many trials at most, drawn evenly.
FOREST = 1000

Parameters = dict[str, str]


def parameters(distiller: Distiller) -> Parameters:
    """The distiller's options by ``knowledge.slot``; terms of weight 0 are absent."""
    found: Parameters = {}
    for term in distiller.active:
        options = EXTENDED[term.knowledge]
        slots = SLOTS if len(options.transforms) == len(SLOTS) else options.slot_names
        found[term.knowledge] = PRESENT
        found.update({f"{term.knowledge}.{s}": t for s, t in zip(slots, term.applied, strict=True)})
        found[f"{term.knowledge}.distance"] = term.distance
        found[f"{term.knowledge}.weight"] = f"{term.weight:g}"
        found[f"{term.knowledge}.schedule"] = term.schedule
    return found


def table_of(trials: Sequence[TrialRow]) -> list[Parameters]:
    """The parameters of trials, all with the same names; those that never differ are left out."""
    rows = [parameters(trial.distiller) for trial in trials]
    names = dict.fromkeys(name for row in rows for name in row)
    whole = [{name: row.get(name, ABSENT) for name in names} for row in rows]
    differing = [name for name in names if len({row[name] for row in whole}) > 1]
    return [{name: row[name] for name in differing} for row in whole]


@dataclass(frozen=True)
class Share:
    """How often an option stands in the good trials and in all, from 0 to 1."""

    name: str
    option: str
    top: float
    all: float

    @property
    def lift(self) -> float:
        return self.top - self.all


def shared_options(ranked: Sequence[TrialRow]) -> list[Share]:
    """The options by how much oftener they stand in the top decile than in all trials.

    ``ranked``: completed trials, the best first. Fewer than :data:`LEAST` give nothing.
    """
    if len(ranked) < LEAST:
        return []
    rows = table_of(ranked)
    top = rows[: max(1, round(TOP * len(rows)))]
    everywhere = Counter(item for row in rows for item in row.items())
    among = Counter(item for row in top for item in row.items())
    shares = [
        Share(name, option, among[name, option] / len(top), count / len(rows))
        for (name, option), count in everywhere.items()
        if option != ABSENT
    ]
    return sorted(shares, key=lambda share: -share.lift)


def importances(ranked: Sequence[TrialRow]) -> dict[str, dict[str, float]]:
    """How much each parameter matters, from 0 to 1, by the name of Optuna's evaluator.

    The mean decrease of impurity needs scikit-learn and is left out without it. fANOVA is left out:
    in pure Python, it takes longer than the rest of the page.
    """
    if len(ranked) < LEAST or not table_of(ranked)[0]:
        return {}
    import optuna

    evaluators: dict[str, Any] = {"PED-ANOVA": optuna.importance.PedAnovaImportanceEvaluator()}
    with suppress(ImportError):
        forest = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=32, seed=0)
        evaluators["mean decrease of impurity"] = forest
    whole = study_of(ranked)
    step = -(-len(ranked) // FOREST)
    sampled = whole if step == 1 else study_of(ranked[::step])
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, evaluator in evaluators.items():
            study = whole if name == "PED-ANOVA" else sampled
            found[name] = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return found


def study_of(trials: Sequence[TrialRow], name: str | None = None, storage: Any = None) -> Any:
    """An Optuna study of trials: every parameter is categorical, and the value is the proxy AP.

    Trials that were stopped are pruned, rejected and failed ones fail, with the reason as an
    attribute. ``storage``: where Optuna keeps the study; in memory by default.
    """
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize", study_name=name, storage=storage)
        rows = table_of(trials)
        choices = {n: sorted({row[n] for row in rows}) for n in (rows[0] if rows else ())}
        kinds = {n: optuna.distributions.CategoricalDistribution(c) for n, c in choices.items()}
        study.add_trials(
            [_study_trial(trial, row, kinds) for trial, row in zip(trials, rows, strict=True)]
        )
        return study
    finally:
        optuna.logging.set_verbosity(before)


def _study_trial(trial: TrialRow, row: Parameters, kinds: dict[str, Any]) -> Any:
    import optuna

    states = optuna.trial.TrialState
    state = {
        Status.QUEUED: states.WAITING,
        Status.RUNNING: states.RUNNING,
        Status.COMPLETED: states.COMPLETE,
        Status.STOPPED: states.PRUNED,
    }.get(trial.status, states.FAIL)
    if state is states.COMPLETE and trial.score is None:  # a NaN that an earlier version stored
        state = states.FAIL
    begun, ended = trial.started or trial.queued, trial.finished
    frozen = optuna.trial.create_trial(
        state=state,
        params=row,
        distributions=kinds,
        value=trial.score if state is states.COMPLETE else None,
        intermediate_values={} if trial.early_score is None else {0: trial.early_score},
        user_attrs={
            "trial": trial.number,
            "stage": trial.stage,
            "status": trial.status.value,
            "distiller": trial.notation,
            "reason": trial.why,
            "host": trial.host,
            "seconds": trial.seconds,
        },
    )
    # Optuna compares naive local times.
    frozen.datetime_start = begun.astimezone().replace(tzinfo=None)
    frozen.datetime_complete = (
        None
        if ended is None or not state.is_finished()
        else ended.astimezone().replace(tzinfo=None)
    )
    if state.is_finished() and frozen.datetime_complete is None:
        frozen.datetime_complete = frozen.datetime_start
    return frozen
