"""The tabular benchmark, loaded: what a trial of any distiller scores, in a millisecond.

A search on it:

    table = Tabular.load("quickstart")
    controller = Controller(table.space, Search(), seed)
    while not controller.done:
        candidate = controller.ask()
        controller.tell(candidate, table.outcome(candidate, seed))
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
from detkds.space import (
    EXTENDED,
    PLAIN,
    PLAIN_WEIGHT,
    SHARE,
    Candidate,
    Distiller,
    Outcome,
    SearchSpace,
    Status,
    WrongUse,
    nearest,
)
from scipy.stats import kendalltau, spearmanr
from surrogate import Features, Surrogate
from table_rows import (
    FILTER,
    FINAL,
    TABLE,
    Job,
    Run,
    Scores,
    Shared,
    form_of,
    key_of,
    read_table,
)

#: The noise of a distiller that the table lacks is that of one of so many of the nearest scores.
NEAREST = 20


@dataclass(frozen=True)
class Tabular:
    """The runs of one problem on one proxy.

    A distiller that the table holds scores what one of its trials scored. Any other scores what a
    surrogate expects (:class:`Surrogate`), with the difference between two seeds of a distiller
    that the table holds and that scores alike. Which trial and which difference are drawn from the
    seed and the distiller: under one seed a distiller always scores the same, as in a search.
    """

    problem: str
    proxy: str
    #: What the pair shares, kinds of knowledge that no search has by default included.
    shared: Shared
    runs: dict[Job, Run]

    @classmethod
    def load(cls, problem: str, proxy: str = "scratch", path: Path = TABLE) -> Tabular:
        """Raises :class:`WrongUse` as :func:`read_table` does, and for a name it does not hold."""
        shared, rows = read_table(path)
        if problem not in shared:
            raise WrongUse(f"{path}: no problem '{problem}': {nearest(problem, shared)}")
        runs = {job: run for job, run in rows if job.problem == problem}
        proxies = {job.kind for job, run in runs.items() if run.epochs} - {FINAL}
        if proxy not in proxies:
            raise WrongUse(f"{path}: no trials on a proxy '{proxy}': {nearest(proxy, proxies)}")
        return cls(problem, proxy, shared[problem], runs)

    @property
    def space(self) -> SearchSpace:
        """What a search of the problem is over by default."""
        whole = self.shared.space
        return whole.only(name for name in whole.knowledge if EXTENDED[name].default)

    def with_trials(self, path: Path) -> Tabular:
        """The table with the trials of a file of ``detkds trials --csv``.

        They must be of the table's problem and proxy, which the file does not say. A trial that the
        table has already, under the same seed, is not added, and neither is a trial that has no
        outcome, was stopped, or whose shares have no plain weights. Raises :class:`WrongUse` for
        another file.
        """
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"notation", "seed", "status", "score"} <= rows[0].keys():
            raise WrongUse(f"{path}: no trials; give a file that `detkds trials --csv` wrote")
        runs = dict(self.runs)
        for row in rows:
            distiller = _plain_of(row)
            if distiller is not None:
                job = Job(self.problem, distiller, self.proxy, int(row["seed"]))
                if row["status"] == Status.COMPLETED.value:
                    runs.setdefault(job, Run(Status.COMPLETED, [_scores_of(row)]))
                elif row["status"] == Status.REJECTED.value:
                    runs.setdefault(job, Run(Status.REJECTED, reason=row.get("reason")))
        return replace(self, runs=runs)

    # What the table holds

    @cached_property
    def trials(self) -> dict[str, list[np.ndarray]]:
        """By the distiller's key, the AP after each epoch of each trial: (epochs,)."""
        found: dict[str, list[np.ndarray]] = {}
        for job, run in sorted(self.runs.items(), key=lambda pair: pair[0].seed):
            if job.kind == self.proxy and run.epochs:
                found.setdefault(job.key, []).append(np.array([one.ap for one in run.epochs]))
        return found

    @cached_property
    def rejected(self) -> dict[str, str]:
        """By the distiller's key, why the filter or a trial rejects it."""
        return {
            job.key: run.reason or ""
            for job, run in self.runs.items()
            if job.kind in (FILTER, self.proxy) and run.status is Status.REJECTED
        }

    @cached_property
    def distillers(self) -> dict[str, Distiller]:
        """The distillers that the filter rejects or that have a trial, by their keys."""
        known = {job.key: job.distiller for job in self.runs}
        return {k: one for k, one in known.items() if k in self.trials or k in self.rejected}

    @cached_property
    def final(self) -> dict[str, list[float]]:
        """By the distiller's key, the test AP of each full training."""
        found: dict[str, list[float]] = {}
        for job, run in self.runs.items():
            if job.kind == FINAL and run.epochs:
                found.setdefault(job.key, []).append(run.epochs[-1].ap)
        return found

    @cached_property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return max(len(curve) for curves in self.trials.values() for curve in curves)

    # What any distiller scores

    def outcome(self, candidate: Candidate | Distiller, seed: int) -> Outcome:
        """The outcome of a trial under a seed.

        The early score is the AP after half of the epochs, on all validation images; a search
        scores early on a part of them.
        """
        distiller = candidate.distiller if isinstance(candidate, Candidate) else candidate
        bar = candidate.early_bar if isinstance(candidate, Candidate) else None
        reason = self.rejection(distiller)
        if reason is not None:
            return Outcome.rejected(reason)
        weights = {
            f"{PLAIN_WEIGHT}{plain.knowledge}": plain.weight
            for plain, own in zip(self.plain(distiller).terms, distiller.terms, strict=True)
            if own.unit == SHARE
        }
        curve = self.curve(distiller, seed)
        early = None
        if bar is not None and len(curve) == self.epochs > 1:
            early = float(curve[math.ceil(self.epochs / 2) - 1])
            if early < bar:
                return Outcome(Status.STOPPED, early_score=early, reason="stopped halfway")
        return Outcome(Status.COMPLETED, score=float(curve[-1]), metrics=weights, early_score=early)

    def plain(self, distiller: Distiller) -> Distiller:
        """The distiller with plain weights in place of shares, as the filter would find them.

        A share that no plain weight gives stays. Raises :class:`WrongUse` for a share if the table
        does not have the sizes of gradients.
        """
        if distiller.in_shares and not self.shared.sizes:
            raise WrongUse(f"the table has no sizes of '{self.problem}', which shares need")
        sizes = self.shared.sizes
        terms = (
            replace(one, weight=one.weight / sizes[form_of(one)], unit=PLAIN)
            if one.unit == SHARE and form_of(one) in sizes
            else one
            for one in distiller.terms
        )
        return replace(distiller, terms=tuple(terms))

    def score(self, distiller: Distiller, seed: int, epoch: int = -1) -> float:
        """The AP after an epoch, counted from 1; by default after the last."""
        return float(self.curve(distiller, seed)[epoch - 1 if epoch > 0 else epoch])

    def rejection(self, distiller: Distiller) -> str | None:
        """Why the filter rejects a distiller, or None: measured, or what the surrogate expects."""
        distiller = self.plain(distiller)
        if distiller.in_shares:
            return "no weight makes a share of it"
        key = key_of(distiller)
        if key in self.trials:
            return None
        if key in self.rejected:
            return self.rejected[key]
        share = float(self._surrogates[2](self._features([distiller]))[0, 0])
        return "the surrogate expects the filter to reject it" if share > 0.5 else None

    def curve(self, distiller: Distiller, seed: int) -> np.ndarray:
        """The AP after each epoch: (epochs,). Of trials that were added, the last AP alone."""
        distiller = self.plain(distiller)
        key = key_of(distiller)
        rng = Random(f"{seed}/{key}")
        if key in self.trials:
            return rng.choice(self.trials[key])
        expected = self.expected(distiller)
        near = np.abs(self._noise[0] - expected[-1]).argsort()[:NEAREST]
        noise = self._noise[1][near[rng.randrange(len(near))]] * rng.choice((-1, 1))
        return (expected + noise).clip(0, 1)

    def expected(self, distiller: Distiller) -> np.ndarray:
        """What trials under all seeds would have on average, after each epoch: (epochs,).

        Of a distiller that the table holds, the surrogate knows the trials, and trusts them as far
        as their noise allows: the best of many is not as good as it looks.
        """
        curve, last, _ = self._surrogates
        features = self._features([self.plain(distiller)])
        return np.append(curve(features)[0, :-1], last(features)[0])

    @cached_property
    def _features(self) -> Features:
        return Features(self.shared)

    @cached_property
    def _whole(self) -> dict[str, np.ndarray]:
        """By the distiller's key, its curves of all epochs: (trials, epochs)."""
        whole = {
            k: [c for c in curves if len(c) == self.epochs] for k, curves in self.trials.items()
        }
        return {key: np.array(curves) for key, curves in whole.items() if curves}

    @cached_property
    def _surrogates(self) -> tuple[Surrogate, Surrogate, Surrogate]:
        """Of the AP after each epoch, of the last AP, and of whether the filter rejects."""

        def fitted(rows: dict[str, np.ndarray]) -> Surrogate:
            features = self._features([self.distillers[key] for key in rows])
            values = np.array([trials.mean(0) for trials in rows.values()])
            return Surrogate(features, values, np.array([len(trials) for trials in rows.values()]))

        last = {key: np.array([[c[-1]] for c in curves]) for key, curves in self.trials.items()}
        status = {key: np.array([[float(key in self.rejected)]]) for key in self.distillers}
        return fitted(self._whole), fitted(last), fitted(status)

    @cached_property
    def _noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean last AP, (n,), and noise of one trial, (n, epochs), of what has two whole trials."""
        pairs = [curves[:2] for curves in self._whole.values() if len(curves) > 1]
        if not pairs:
            raise WrongUse(
                f"no distiller has two trials on '{self.proxy}', which show the noise of seeds; "
                "collect more with benchmarks/table.py"
            )
        means = np.array([pair[:, -1].mean() for pair in pairs])
        return means, np.array([(pair[0] - pair[1]) / math.sqrt(2) for pair in pairs])

    def quality(self) -> dict[str, float]:
        """How good the surrogate is, each distiller predicted from the others; AP in points."""
        last = self._surrogates[1].left_out[:, 0]
        measured = np.array([np.mean([c[-1] for c in curves]) for curves in self.trials.values()])
        return {
            "distillers": len(measured),
            "Kendall's tau": kendalltau(last, measured).statistic,
            "Spearman's rho": spearmanr(last, measured).statistic,
            "error, AP": 100 * float(np.sqrt(((last - measured) ** 2).mean())),
            "spread of the distillers, AP": 100 * float(measured.std()),
            "noise of a trial, AP": 100 * float(np.sqrt((self._noise[1][:, -1] ** 2).mean())),
        }


def _plain_of(row: dict[str, str]) -> Distiller | None:
    """The distiller of a trial's row, under the plain weights that its trial had, if known."""
    distiller = Distiller.parse("; ".join(row["notation"].splitlines()))
    kinds = [term.knowledge for term in distiller.active if term.unit == SHARE]
    weights = {kind: row.get(f"metrics.{PLAIN_WEIGHT}{kind}") for kind in kinds}
    if not all(weights.values()):
        return None
    return distiller.with_plain_weights({kind: float(one or 0) for kind, one in weights.items()})


def _scores_of(row: dict[str, str]) -> Scores:
    """The scores of a completed trial's row. Losses and seconds are not known."""
    ap, ap50, ap75 = (
        float(row.get(name) or math.nan)
        for name in ("score", "metrics.bbox_mAP_50", "metrics.bbox_mAP_75")
    )
    return Scores(ap, ap50, ap75, *[math.nan] * 4)
