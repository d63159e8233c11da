"""The rows of the tabular benchmark, and the file that they are shipped in. Pure Python.

The file is a gzipped CSV with a row for each epoch of each run, below one line of JSON that starts
with ``#``: it says which version of the extended space was measured, what of that space each
problem's pair shares, and how large the terms' gradients are.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from detkds.space import EXTENDED, NONE, PLAIN, Distiller, SearchSpace, Status, Term, WrongUse
from detkds.space.writing import replacing

SCHEMA = "detkds/table/1"
#: The table that is shipped.
TABLE = Path(__file__).parent / "tables" / "extended.csv.gz"
#: The kinds of runs besides the proxies: the rejection filter, and a full training.
FILTER, FINAL = "filter", "final"

_RUN = ("problem", "distiller", "kind", "seed", "status", "reason", "cpu", "seconds", "metrics")
_ADVICE = "collect the table again with benchmarks/table.py, or use the version that it came with"


@dataclass(frozen=True)
class Scores:
    """What a student has after an epoch: COCO's box AP in [0, 1], and its loss."""

    ap: float
    ap50: float
    ap75: float
    #: The sum of the student's own losses on the images that it is scored on, in evaluation mode.
    loss: float
    #: The same under batch normalisation with the statistics of each batch, as in training.
    batch_loss: float
    #: Seconds of the process's CPU time so far: in training, and in one scoring.
    training: float
    scoring: float


@dataclass(frozen=True)
class Run:
    """What became of a training: ``epochs`` is empty unless it completed.

    ``metrics``: the filter's scores of a distiller, by name.
    """

    status: Status
    epochs: list[Scores] = field(default_factory=list)
    reason: str | None = None
    #: Seconds in all: of the process's CPU time, and on the clock.
    cpu: float = 0.0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run. ``kind``: :data:`FILTER`, :data:`FINAL`, or a proxy's name."""

    problem: str
    distiller: Distiller
    kind: str
    seed: int

    @property
    def key(self) -> str:
        return key_of(self.distiller)

    @property
    def text(self) -> str:
        return "; ".join(map(str, self.distiller.active)) or NONE

    @property
    def name(self) -> str:
        return f"{self.problem}-{self.key}-{self.kind}-{self.seed}"


def key_of(distiller: Distiller) -> str:
    """The distiller's key; ``none`` for the student alone."""
    return distiller.key if distiller.active else NONE


def form_of(term: Term) -> str:
    """A term without its weight: ``global: catt → scale_2, l1``."""
    return str(replace(term, weight=1.0, unit=PLAIN)).rpartition(" × ")[0]


@dataclass(frozen=True)
class Shared:
    """What a problem's pair shares of the extended space.

    ``sizes``: by :func:`form_of`, the size of a term's gradient at weight 1, in shares of the
    detection loss's. Empty: not measured. ``conditions``: by kind, the key of what the scores of
    the problem's runs depend on.
    """

    space: SearchSpace
    sizes: dict[str, float] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)


def write_table(
    path: Path, runs: Iterable[tuple[Job, Run]], shared: dict[str, Shared], version: str
) -> None:
    """Write runs in the order given; the file appears whole or not at all.

    ``shared``: by the problem's name. Runs that failed are left out. Equal runs make equal files.
    """
    problems = {
        name: {
            "space": one.space.to_dict(),
            "sizes": {k: float(_digits(v)) for k, v in one.sizes.items()},
            "conditions": one.conditions,
        }
        for name, one in shared.items()
    }
    head = {"schema": SCHEMA, "version": version, "space": current_space(), "problems": problems}
    text = io.StringIO()
    text.write(f"# {json.dumps(head)}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_RUN, "epoch", *(one.name for one in fields(Scores))])
    for job, run in runs:
        if run.status is Status.FAILED:
            continue
        values = [job.problem, job.text, job.kind, job.seed, run.status.value, run.reason or ""]
        metrics = {name: float(_digits(value)) for name, value in run.metrics.items()}
        values += [f"{run.cpu:.1f}", f"{run.seconds:.1f}", json.dumps(metrics) if metrics else ""]
        for epoch, scores in enumerate(run.epochs or [None], start=1):
            found = [] if scores is None else [epoch, *map(_digits, asdict(scores).values())]
            writer.writerow([*values, *found])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, one_writer=True) as temporary:
        temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def _digits(value: float) -> str:
    return f"{value:.4g}"


def read_table(path: Path) -> tuple[dict[str, Shared], list[tuple[Job, Run]]]:
    """What each problem's pair shares, and the runs.

    Raises :class:`WrongUse` for a file that is no table, and for a table of another version of the
    extended space.
    """
    try:
        head, _, rows = gzip.decompress(path.read_bytes()).decode().partition("\n")
        known = json.loads(head.removeprefix("# "))
        schema = known["schema"]
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
        reason = getattr(error, "strerror", None) or "it is no gzipped table"
        raise WrongUse(f"{path}: can't read the table: {reason}; {_ADVICE}") from None
    if schema != SCHEMA:
        raise WrongUse(f"{path}: its format is '{schema}', not '{SCHEMA}'; {_ADVICE}")
    changed = _difference(known["space"], current_space())
    if changed:
        raise WrongUse(
            f"{path}: it was measured over the space of detkds {known['version']}, which differs "
            f"from this version's in {changed}; {_ADVICE}"
        )
    shared = {
        name: Shared(_space(one["space"]), one["sizes"], one["conditions"])
        for name, one in known["problems"].items()
    }
    found: dict[Job, Run] = {}
    for row in csv.DictReader(io.StringIO(rows)):
        distiller = Distiller.parse(row["distiller"])
        job = Job(row["problem"], distiller, row["kind"], int(row["seed"]))
        spent = float(row["cpu"]), float(row["seconds"])
        metrics = json.loads(row["metrics"] or "{}")
        run = Run(Status(row["status"]), [], row["reason"] or None, *spent, metrics)
        run = found.setdefault(job, run)
        if row["epoch"]:
            run.epochs.append(Scores(**{one.name: float(row[one.name]) for one in fields(Scores)}))
    return shared, list(found.items())


def current_space() -> dict[str, dict[str, list]]:
    """What a table depends on in the extended space: all but the weights, which are numbers."""
    whole = SearchSpace(dict(EXTENDED)).to_dict()
    return {
        knowledge: {name: choices for name, choices in options.items() if name != "weights"}
        for knowledge, options in whole.items()
    }


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first kind of knowledge that differs."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return names[0] if names else None


def _space(options: dict[str, dict[str, list]]) -> SearchSpace:
    return SearchSpace(
        {
            knowledge: replace(
                EXTENDED[knowledge],
                transforms=tuple(map(tuple, own["transforms"])),
                distances=tuple(own["distances"]),
                weights=tuple(own["weights"]),
                schedules=tuple(own["schedules"]),
            )
            for knowledge, own in options.items()
        }
    )
