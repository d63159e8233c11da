"""Can the proxy be believed? Rank correlation of trials' scores with full trainings' test AP.

From the table's study: Kendall's tau between what a trial scores and the mean test AP of full
trainings, for every proxy, score and epoch, each trial's seed apart; then by the knowledge of the
distillers. In brackets, the band of 90 % over distillers that a bootstrap draws. The ceilings are
the tau that a proxy without any error but the seeds' noise would show. The cost is the CPU time of
the training and of one scoring, as a share of the whole trial's on the config's own proxy. A part
of a table will do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detkds.space import WrongUse, nearest
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from table_rows import FILTER, FINAL, TABLE, Job, Run, Scores, read_table

#: Samples of the bootstrap, and the percentiles that bound the band.
RESAMPLES, BAND = 1000, (5, 95)
#: Draws that a ceiling is the mean of.
DRAWS = 200
#: The proxy that costs are shares of.
WHOLE = "scratch"
#: Fewer distillers show nothing.
LEAST = 4

#: What a trial may be scored by, from its epochs so far. Higher is better.
SCORES: dict[str, Callable[[Sequence[Scores]], float]] = {
    "AP": lambda epochs: epochs[-1].ap,
    "AP50": lambda epochs: epochs[-1].ap50,
    "detection loss": lambda epochs: -epochs[-1].loss,
    "loss, batch statistics": lambda epochs: -epochs[-1].batch_loss,
    "mean AP of 2 epochs": lambda epochs: float(np.mean([one.ap for one in epochs[-2:]])),
    "mean AP of 3 epochs": lambda epochs: float(np.mean([one.ap for one in epochs[-3:]])),
}


@dataclass(frozen=True)
class Study:
    """The distillers of one problem that have full trainings."""

    #: By the distiller's key, the test AP of each of its full trainings.
    final: dict[str, list[float]]
    #: By proxy, the epochs of each trial, by its distiller's key and its seed.
    trials: dict[str, dict[str, dict[int, list[Scores]]]]
    #: By the distiller's key, the kinds of its knowledge.
    kinds: dict[str, tuple[str, ...]]
    #: By name, the filter's scores of the distillers that have any, by their keys.
    untrained: dict[str, dict[str, float]]

    @classmethod
    def of(cls, rows: list[tuple[Job, Run]], problem: str) -> Study:
        study = cls({}, {}, {}, {})
        ours = [(job, run) for job, run in rows if job.problem == problem]
        own = [(job, run) for job, run in ours if run.epochs]
        for job, run in own:
            if job.kind == FINAL:
                study.final.setdefault(job.key, []).append(run.epochs[-1].ap)
                study.kinds[job.key] = tuple(term.knowledge for term in job.distiller.active)
        for job, run in own:
            if job.kind != FINAL and job.key in study.final:
                seeds = study.trials.setdefault(job.kind, {}).setdefault(job.key, {})
                seeds[job.seed] = run.epochs
        for job, run in ours:
            if job.kind == FILTER and job.key in study.final:
                for name, value in run.metrics.items():
                    study.untrained.setdefault(name, {})[job.key] = value
        return study

    def pairs(
        self, proxy: str, score: str, epoch: int, keys: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """For each trial seed, the scores and the mean test AP: (2, distillers).

        A score is NaN where a distiller has no trial under the seed.
        """
        trials = self.trials[proxy]
        chosen = [key for key in (self.final if keys is None else keys) if key in trials]
        found = []
        for seed in sorted({seed for key in chosen for seed in trials[key]}):
            known = [trials[key].get(seed) for key in chosen]
            own = [np.nan if one is None else SCORES[score](one[:epoch]) for one in known]
            if np.isfinite(own).sum() >= LEAST:
                found.append(np.array([own, [np.mean(self.final[key]) for key in chosen]]))
        return found

    def epochs(self, proxy: str) -> int:
        return max(len(one) for seeds in self.trials[proxy].values() for one in seeds.values())

    def cost(self, proxy: str, epoch: int) -> float:
        """The median CPU seconds of a trial that ends after an epoch and is scored once."""
        spent = [
            one[epoch - 1].training + one[epoch - 1].scoring
            for seeds in self.trials[proxy].values()
            for one in seeds.values()
        ]
        return float(np.median(spent))


def tau(pairs: Sequence[np.ndarray]) -> float:
    """The mean over seeds of Kendall's tau-b."""
    found = [kendalltau(*pair, nan_policy="omit").statistic for pair in pairs]
    return float(np.mean(found))


def interval(pairs: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    """The band of tau over distillers drawn with replacement."""
    size = pairs[0].shape[1]
    drawn = rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    found = np.mean([resampled_tau(first, second, drawn) for first, second in pairs], axis=0)
    low, high = np.nanpercentile(found, BAND)
    return float(low), float(high)


def resampled_tau(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of samples that hold each of n items so many times; all at once.

    ``first``, ``second``: (n,), with NaN for what no sample holds; ``counts``: (samples, n).
    Returns (samples,).
    """
    counts = counts * np.isfinite(first + second)
    signs = [np.sign(values[:, None] - values[None]) for values in np.nan_to_num([first, second])]

    def over_pairs(matrix: np.ndarray) -> np.ndarray:
        return ((counts @ matrix) * counts).sum(1)

    untied = over_pairs(signs[0] ** 2) * over_pairs(signs[1] ** 2)
    with np.errstate(invalid="ignore"):
        return over_pairs(signs[0] * signs[1]) / np.sqrt(untied)


def shown(pairs: Sequence[np.ndarray], rng: np.random.Generator) -> list[str]:
    """The number of distillers, and tau with its band."""
    if not pairs:
        return ["", ""]
    low, high = interval(pairs, rng)
    most = max(np.isfinite(pair[0]).sum() for pair in pairs)
    return [str(most), f"{tau(pairs):.2f} ({low:.2f} to {high:.2f})"]


# The ceiling


def variances(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The variance between distillers without the seeds' noise, and that of the seeds' noise."""
    several = [group for group in groups if len(group) > 1]
    if not several:
        return float("nan"), float("nan")
    noise = float(np.mean([np.var(group, ddof=1) for group in several]))
    means = np.array([np.mean(group) for group in groups])
    of_means = noise * float(np.mean([1 / len(group) for group in groups]))
    return max(float(np.var(means, ddof=1)) - of_means, 0.0), noise


def ceiling(study: Study, share: float, rng: np.random.Generator) -> float:
    """The tau with the mean test AP that a proxy of no other error than noise would show.

    ``share``: the variance of the noise of one trial over that between distillers. The distillers'
    true test APs are taken to be the means, drawn together by as much as the seeds' noise has
    spread them; trials and full trainings are drawn around them.
    """
    groups = list(study.final.values())
    between, noise = variances(groups)
    means = np.array([np.mean(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    true = means.mean() + (means - means.mean()) * np.sqrt(between / np.var(means, ddof=1))
    found = []
    for _ in range(DRAWS):
        trial = true + rng.normal(size=len(true)) * np.sqrt(share * between)
        full = true + rng.normal(size=len(true)) * np.sqrt(noise / counts)
        found.append(kendalltau(trial, full).statistic)
    return float(np.mean(found))


def one_against_the_rest(final: dict[str, list[float]]) -> list[np.ndarray]:
    """For each seed, its full trainings' AP, and the mean of the other seeds'."""
    most = max(map(len, final.values()))
    whole = np.array([group for group in final.values() if len(group) == most])
    if most < 2 or len(whole) < LEAST:
        return []
    return [
        np.stack([whole[:, seed], np.delete(whole, seed, axis=1).mean(1)]) for seed in range(most)
    ]


# The tables


def by_score(study: Study, rng: np.random.Generator) -> Table:
    """A row for each proxy and score, after the last epoch."""
    table = Table("proxy", "score", "cost", "distillers", "tau")
    whole = study.cost(WHOLE, study.epochs(WHOLE)) if WHOLE in study.trials else float("nan")
    for proxy in study.trials:
        last = study.epochs(proxy)
        for score in SCORES:
            cells = shown(study.pairs(proxy, score, last), rng)
            table.add_row(proxy, score, f"{study.cost(proxy, last) / whole:.2f}", *cells)
    return table


def by_epoch(study: Study, proxy: str, rng: np.random.Generator) -> Table:
    """A row for each epoch: what a trial that is looked at before its end tells."""
    names = ("AP", "loss, batch statistics", "mean AP of 2 epochs")
    table = Table("epoch", "cost", *names, title=f"{proxy}, by epoch")
    for epoch in range(1, study.epochs(proxy) + 1):
        cells = [shown(study.pairs(proxy, name, epoch), rng)[1] for name in names]
        share = study.cost(proxy, epoch) / study.cost(proxy, study.epochs(proxy))
        table.add_row(str(epoch), f"{share:.2f}", *cells)
    return table


def by_knowledge(study: Study, rng: np.random.Generator) -> Table:
    """A row for each kind of knowledge: the distillers that have a term of it."""
    table = Table("knowledge", "distillers", *study.trials, title="AP, by knowledge")
    for kind in sorted({kind for kinds in study.kinds.values() for kind in kinds}):
        keys = [key for key, kinds in study.kinds.items() if kind in kinds]
        cells = [
            shown(study.pairs(proxy, "AP", study.epochs(proxy), keys), rng)[1]
            for proxy in study.trials
        ]
        table.add_row(kind, str(len(keys)), *cells)
    return table


def without_training(study: Study, rng: np.random.Generator) -> Table:
    """A row for each score that the filter gives before any training."""
    table = Table("score", "distillers", "tau", title="scores without a training")
    for name, values in sorted(study.untrained.items()):
        known = {key: value for key, value in values.items() if np.isfinite(value)}
        if len(known) >= LEAST:
            means = [np.mean(study.final[key]) for key in known]
            table.add_row(name, *shown([np.array([list(known.values()), means])], rng))
    return table


def ceilings(study: Study, rng: np.random.Generator) -> Table:
    """What the seeds' noise allows; without a row before there are several seeds."""
    table = Table("no error but", "tau", title="the ceilings that noise sets")
    pairs = one_against_the_rest(study.final)
    if pairs:
        table.add_row("one full training, against the mean of the others", shown(pairs, rng)[1])
    between, _ = variances(list(study.final.values()))
    if not between > 0:
        return table
    table.add_row("the full trainings' noise", f"{ceiling(study, 0.0, rng):.2f}")
    for proxy, trials in study.trials.items():
        groups = [[one[-1].ap for one in seeds.values()] for seeds in trials.values()]
        spread, own = variances(groups)
        if spread > 0:
            tau_of = ceiling(study, own / spread, rng)
            table.add_row(f"that and the noise of a trial on {proxy}", f"{tau_of:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--problems", nargs="*", help="by default all that the table holds")
    parser.add_argument("--epochs-of", default=WHOLE, help="the proxy that is shown by epoch")
    arguments = parser.parse_args()
    try:
        show(arguments)
    except WrongUse as error:
        parser.error(str(error))


def show(arguments: argparse.Namespace) -> None:
    """Print the tables of every problem."""
    shared, rows = read_table(arguments.table)
    console, rng = Console(width=120), np.random.default_rng(0)
    for problem in arguments.problems or shared:
        if problem not in shared:
            raise WrongUse(f"no problem '{problem}': {nearest(problem, shared)}", "--problems")
        study = Study.of(rows, problem)
        between, noise = (100 * v**0.5 for v in variances(list(study.final.values())))
        spread = (
            f"; their test AP has a deviation of {between:.1f}, and one of {noise:.1f} by seeds"
        )
        console.print(
            f"\n{problem}: {len(study.final)} distillers with full trainings"
            f"{spread if np.isfinite(noise) else ', not yet under several seeds'}",
            highlight=False,
        )
        console.print(by_score(study, rng))
        if arguments.epochs_of in study.trials:
            console.print(by_epoch(study, arguments.epochs_of, rng))
        console.print(by_knowledge(study, rng))
        if study.untrained:
            console.print(without_training(study, rng))
        noise_table = ceilings(study, rng)
        if noise_table.rows:
            console.print(noise_table)


if __name__ == "__main__":
    main()
