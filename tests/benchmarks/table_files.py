"""A table of a landscape that is known: what the tests of the tabular benchmark measure against."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from detkds.space import STEPWISE, Distiller, SearchSpace, Status
from table_rows import FILTER, FINAL, Job, Run, Scores, Shared, write_table

PROBLEM = "shapes"
EPOCHS = 4
#: Deviations of trials and of full trainings under different seeds.
TRIAL_NOISE, FINAL_NOISE = 0.008, 0.01
_GAINS = {"pearson": 0.08, "correlation": 0.12, "kl": 0.04}


def space() -> SearchSpace:
    """Two kinds of knowledge, without stepwise weights."""
    whole = SearchSpace.preset("extended").only(["global", "logits"])
    for knowledge in whole.knowledge:
        whole = whole.without(knowledge, [STEPWISE])
    return whole


def worth(distiller: Distiller) -> float:
    """The AP that trials have on average. The best weight is 2."""
    return 0.06 + sum(
        _GAINS.get(t.distance, 0.01) / (1 + abs(t.weight - 2) / 4) for t in distiller.active
    )


def rejected(distiller: Distiller) -> bool:
    """Large weights of one distance."""
    return any(term.distance == "l2" and term.weight >= 5 for term in distiller.active)


def drawn(rng: Random) -> Distiller:
    """One term or two."""
    whole = space()
    kinds = rng.sample(whole.knowledge, rng.choice((1, 2)))
    return Distiller(tuple(whole.random(kind, rng) for kind in kinds))


def scores(ap: float, spent: float = 0.0) -> Scores:
    return Scores(ap, 2 * ap, ap / 2, 3 - ap, 2 - ap, spent, 1.0)


@dataclass
class Written:
    """A table's file, and its runs."""

    path: Path
    runs: list[tuple[Job, Run]] = field(default_factory=list)


def written(
    folder: Path, distillers: int = 240, study: int = 30, proxies: dict[str, float] | None = None
) -> Written:
    """A table with two trials of each distiller, and three full trainings of those of the study.

    ``proxies``: by name, what a trial's score is made of: 1 is the landscape, -1 its reverse.
    """
    rng = Random(0)
    known = {one.key: one for one in (drawn(rng) for _ in range(distillers))}
    found = Written(folder / "table.csv.gz")
    for number, one in enumerate([Distiller(()), *known.values()]):
        if rejected(one):
            run = Run(Status.REJECTED, reason="loss_global is 123.4, above 100")
            found.runs.append((Job(PROBLEM, one, FILTER, 0), run))
            continue
        metrics = {"filter/drop": worth(one), "filter/share": rng.random()}
        run = Run(Status.COMPLETED, metrics=metrics)
        found.runs.append((Job(PROBLEM, one, FILTER, 0), run))
        for proxy, sign in (proxies or {"scratch": 1.0}).items():
            for seed in (0, 1):
                last = 0.3 * (sign < 0) + sign * worth(one) + rng.gauss(0, TRIAL_NOISE)
                curve = [
                    scores(max(last, 0) * (epoch + 1) / EPOCHS, 5.0 * (epoch + 1))
                    for epoch in range(EPOCHS)
                ]
                found.runs.append((Job(PROBLEM, one, proxy, seed), Run(Status.COMPLETED, curve)))
        for seed in (0, 1, 2) if number < study else ():
            full = [scores(0.05 + 1.5 * worth(one) + rng.gauss(0, FINAL_NOISE))]
            found.runs.append((Job(PROBLEM, one, FINAL, seed), Run(Status.COMPLETED, full)))
    write_table(found.path, found.runs, {PROBLEM: Shared(space())}, "0.0")
    return found
