"""Which trials and trainings `detkds trials` lists, in which order, and how scores are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..space import Status, WrongUse, nearest

Record = dict[str, Any]
#: What trials may be sorted by, and whether large values come first.
SORTS = {
    "number": False,
    "score": True,
    "early_score": True,
    "seconds": True,
    "stage": False,
    "status": False,
    "finished": False,
}


def in_points(score: float | None) -> str:
    """An AP in [0, 1] in points, as tables show it; nothing for None."""
    return "" if score is None else f"{100 * score:.1f}"


def references(alone: float | None, teacher: float | None) -> str:
    """What the APs of trials are read against, as far as it is known; "" if nothing is.

    >>> references(0.086, 0.551)
    'for comparison: student alone AP 8.6, teacher AP 55.1'
    """
    known = {"student alone": alone, "teacher": teacher}
    parts = [f"{name} AP {in_points(ap)}" for name, ap in known.items() if ap is not None]
    return f"for comparison: {', '.join(parts)}" if parts else ""


def listed(
    records: Sequence[Record],
    *,
    status: str | None = None,
    stage: str | None = None,
    sort: str | None = None,
    top: int | None = None,
) -> list[Record]:
    """The records of a status and a stage, sorted; trials without a value come last.

    ``top``: so many at most; without ``sort``, the best. Raises :class:`WrongUse` for an unknown
    status, stage or column, with the nearest.
    """
    _check("--status", status, [one.value for one in Status])
    if stage is not None:
        _check("--stage", stage, list(dict.fromkeys(record["stage"] for record in records)))
    _check("--sort", sort, [one for one in SORTS if not records or one in records[0]])
    if top is not None and top < 1:
        raise WrongUse(f"--top {top}: list at least 1 trial")
    wanted = {"status": status, "stage": stage}
    chosen = [
        record
        for record in records
        if all(value in (None, record.get(column)) for column, value in wanted.items())
    ]
    column = sort or ("score" if top is not None else None)
    if column is not None:
        known = [record for record in chosen if record[column] is not None]
        known.sort(key=lambda record: record[column], reverse=SORTS[column])
        chosen = known + [record for record in chosen if record[column] is None]
    return chosen[:top]


def best_of(records: Sequence[Record]) -> dict[str, int]:
    """The number of the best trial of each search; of equals, the one that was asked for first."""
    best: dict[str, Record] = {}
    for record in records:
        leader = best.get(record["search"])
        if record["score"] is not None and (leader is None or record["score"] > leader["score"]):
            best[record["search"]] = record
    return {search: record["number"] for search, record in best.items()}


def why(record: Record) -> str:
    """The reason of what did not complete, or its error's last line, or ""."""
    return record["reason"] or (record["error"] or "").strip().rpartition("\n")[2]


def _check(option: str, value: str | None, known: list[str]) -> None:
    if value is not None and value not in known:
        advice = nearest(value, known) if known else "there is no trial"
        raise WrongUse(f"{option} {value}: {advice}")
