"""The tables of the commands that only look: trials, proxy subsets, the space, teacher orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..configs import DATA
from ..search.teachers.order import ALGORITHMS, Pool, teacher_order
from ..space import SearchSpace, WrongUse
from ..space.options import ALIASES
from .console import console, in_one_line
from .listing import in_points, why

if TYPE_CHECKING:
    from ..configs import Paper
    from ..configs import Table as PaperTable
    from ..data.proxy import ProxyFiles
    from ..db import SearchRow, TrialRow


def teacher_table(pool: Pool, algorithm: str, max_teachers: int | None) -> None:
    """Costs as a heat map, the order by every algorithm, and why the chosen one stops."""
    names = [pool.student, *pool.scores]
    known = [pool.costs[a][b] for a in names for b in names if b in pool.costs.get(a, {})]
    table = Table(title="adaptation cost from row to column: what is left of the column's features")
    table.add_column("from \\ to")
    table.add_column("score", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for row in names:
        score = "" if row == pool.student else f"{pool.scores[row]:.1f}"
        cells = [_heat(pool.costs.get(row, {}).get(name), known) for name in names]
        table.add_row(row, score, *cells)
    console.print(table)
    for name in ALGORITHMS:
        mark = "→" if name == algorithm else " "
        try:
            order = " → ".join(teacher_order(pool, name, max_teachers).teachers)
        except WrongUse as error:  # an algorithm that was not asked for can't try so many paths
            order = error.message
        console.print(f"{mark} {name:13} {order}", highlight=False)
    console.print(f"{algorithm} stops: {teacher_order(pool, algorithm, max_teachers).reason}")


def _heat(cost: float | None, known: list[float]) -> Text:
    """The lower the greener, by rank: costs of levels and models differ by orders of magnitude."""
    if cost is None:
        return Text("-")
    share = sum(other < cost for other in known) / max(len(known) - 1, 1)
    return Text(f"{cost:.3g}", style=f"on rgb({int(40 + 150 * share)},{int(130 - 90 * share)},60)")


def trial_table(records: list[dict[str, Any]], best: Mapping[str, int] | None = None) -> None:
    """Trials, a row each; ``records`` as ``Store.trial_records`` gives them.

    ``best``: the number of the best trial by search, which is marked.
    """
    table = Table()
    for column in ("search", "trial", "stage", "status", "AP", "distiller or reason"):
        table.add_column(column)
    for record in records:
        score = in_points(record["score"])
        leads = (best or {}).get(record["search"]) == record["number"]
        text = in_one_line(record["notation"])
        reason = why(record)
        table.add_row(
            record["search"],
            str(record["number"]),
            record["stage"],
            str(record["status"]),
            f"{score} ★" if leads else score,
            f"{text} ({reason})" if reason else text,
            style="bold" if leads else None,
        )
    console.print(table)


def training_listing(records: list[dict[str, Any]]) -> None:
    """Full trainings, a row each; ``records`` as ``training_records`` gives them."""
    table = Table()
    for column in ("search", "training", "scored on", "status", "AP", "file or reason"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(
            *(record["search"], record["label"], record["split"], str(record["status"])),
            *(in_points(record["score"]), why(record) or record["checkpoint"] or ""),
        )
    console.print(table)


def search_table(rows: list[tuple[SearchRow, list[TrialRow], str | None, str]]) -> None:
    """Searches, a row each: with its trials, who runs it now, and the URL of its database."""
    from ..db import ranked

    table = Table()
    for column in ("search", "begun (UTC)", "state", "trials", "best AP", "database"):
        table.add_column(column, overflow="fold")
    for search, trials, runner, url in rows:
        state = f"run by {runner}" if runner else "interrupted"
        best = [in_points(trial.score) for trial in ranked(trials)[:1]]
        table.add_row(
            search.name,
            f"{search.created:%Y-%m-%d %H:%M}",
            state if search.finished is None else "finished",
            str(len(trials)),
            *(best or [""]),
            url,
        )
    console.print(table)


def proxy_table(files: ProxyFiles) -> None:
    """What the subsets of a proxy hold beside the whole set, and where their files are."""
    table = Table(title="deviation: share of boxes in another class or size than the whole set's")
    for column in ("subset", "images", "boxes", "deviation", "small / medium / large"):
        table.add_column(column)
    report = files.report
    for name, part in (("whole", report.whole), ("train", report.train), ("val", report.val)):
        sizes = " / ".join(f"{share:.1%}" for share in part.size_shares.values())
        table.add_row(name, str(part.images), str(part.boxes), f"{part.deviation:.3f}", sizes)
    console.print(table)
    console.print(f"{files.train_path}\n{files.val_path}", soft_wrap=True, highlight=False)


def _with_aliases(slot: tuple[str, ...]) -> Iterator[str]:
    """The choices of a transform slot, each with its other names in brackets."""
    for choice in slot:
        others = [alias for alias, name in ALIASES.get(slot, {}).items() if name == choice]
        yield f"{choice} (or {', '.join(others)})" if others else choice


def space_listing(space: SearchSpace) -> None:
    """Every option of a search space, a line per slot."""
    for knowledge, options in space.options.items():
        console.print(f"{knowledge} ({len(options)} terms)", highlight=False)
        transforms = [tuple(_with_aliases(slot)) for slot in options.transforms]
        slots = list(zip(options.slot_names, transforms, strict=True))
        slots += [
            ("distance", options.distances),
            ("weight", tuple(map("{:g}".format, options.weights))),
        ]
        slots += [("schedule", options.schedules)] if len(options.schedules) > 1 else []
        for name, choices in slots:
            console.print(f"  {name:9}  {' | '.join(choices)}", soft_wrap=True, highlight=False)
    console.print(f"{len(space)} terms in all", highlight=False)


def paper_listing(selection: list[tuple[Paper, list[PaperTable]]]) -> None:
    """The rows of the papers' tables: what each published, how to run it, what it needs."""
    for paper, tables in selection:
        console.print(f"\n{paper.title}", style="bold", highlight=False)
        if paper.note:
            console.print(paper.note, highlight=False)
        for table in tables:
            _paper_table(table)
    console.print(f"\nEvery row needs {DATA}. --json prints the addresses of weights.")


def _paper_table(table: PaperTable) -> None:
    shown = Table(title=table.title, title_justify="left", caption=table.note or None)
    metric = next(iter(table.rows.values())).metric
    shown.add_column(metric, justify="right", no_wrap=True)
    shown.add_column("command, or why the row can't be repeated", overflow="fold")
    shown.add_column("weights, departures")
    for row in table.rows.values():
        published = "" if row.published is None else f"{row.published:.1f}"
        command = row.command if row.why is None else f"{row.name}: {row.why}"
        if row.why is not None and row.instead is not None:
            command = f"{command}; run {row.instead}"
        weights = [need.partition(": https://")[0] for need in row.needs]
        shown.add_row(published, command, "; ".join([*weights, *([row.note] if row.note else [])]))
    console.print(shown)
