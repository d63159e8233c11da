"""What a search looks like while it runs and when it is done: live on a terminal, else lines."""

from __future__ import annotations

import time
from collections import defaultdict
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..data.proxy import ProxyFiles
from ..search.run import Result
from ..search.session import Session
from ..search.teachers.order import ALGORITHMS, Pool, teacher_order
from ..space import Outcome, SearchSpace, Status, WrongUse
from ..workers.training import Training

# A file or a pipe has no width of its own; tables should not be folded in a log.
console = Console() if Console().is_terminal else Console(width=140)
#: Without a terminal a line is printed no more often than this, in seconds.
LINE_EVERY = 10.0


class SearchDisplay:
    """Shows stages, counts, the best so far and the time left.

    On a terminal it redraws in place; elsewhere it prints a line now and then. Interrupted, it
    says how to go on: ``again`` is that command.
    """

    def __init__(self, again: str) -> None:
        self._again = again
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last_line, self._told = 0.0, ""
        self._started: float | None = None
        self._scored_before = 0

    def __enter__(self) -> SearchDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if isinstance(error, KeyboardInterrupt) and self._again:
            console.print(f"interrupted; go on with: {self._again}", soft_wrap=True)

    def dashboard(self, address: str) -> None:
        if address:
            self.say(f"Ray dashboard: http://{address} (its token: ray get-auth-token)")

    def say(self, text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None:
        """Trainings side by side: iterations done of each."""
        parts = [
            f"{name} {done}/{total}" if total else f"{name} waiting"
            for name, (done, total) in zip(names, progress, strict=True)
        ]
        finished = all(total and done == total for done, total in progress)
        if self._live:
            self._live.update(Text("training: " + ", ".join(parts)))
        else:
            self._line("training: " + ", ".join(parts), now=finished)

    def search(self, session: Session, planned: int) -> None:
        counts = session.store.counts(session.search_id)
        if self._started is None:
            self._started, self._scored_before = time.monotonic(), counts[Status.COMPLETED]
        best = session.controller.best
        scored = counts[Status.COMPLETED]
        summary = (
            f"{scored}/{planned} trials completed, "
            f"{counts[Status.REJECTED]} rejected, {counts[Status.FAILED]} failed, "
            f"{counts[Status.RUNNING]} running; {self._left(scored, planned)}"
        )
        if best is None:
            leader = "no completed trial yet"
        else:
            candidate, outcome = best
            form = str(candidate.distiller).replace("\n", "; ")
            leader = f"best AP {outcome.score:.3f} (trial {candidate.number}): {form}"
        if self._live:
            bar = ProgressBar(total=planned, completed=scored, width=60)
            self._live.update(Group(Text(summary), bar, _stages(session), Text(leader)))
        else:
            self._line(f"{summary}; {leader}", now=session.done)

    def _left(self, scored: int, planned: int) -> str:
        assert self._started is not None
        new = scored - self._scored_before
        if new < 1:
            return "time left unknown yet"
        seconds = (time.monotonic() - self._started) / new * max(planned - scored, 0)
        return (
            f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
        )

    def _line(self, text: str, now: bool) -> None:
        if text == self._told:
            return
        if now or time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line, self._told = time.monotonic(), text
            console.print(text, soft_wrap=True, highlight=False)


def _stages(session: Session) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "best AP", "distiller"):
        table.add_column(column)
    for stage, algorithm in session.controller.stages.items():
        best = algorithm.best
        score = "" if best is None or best[1].score is None else f"{best[1].score:.3f}"
        form = "" if best is None else str(best[0].distiller).replace("\n", "; ")
        table.add_row(("✓ " if algorithm.done else "  ") + stage, score, form)
    return table


def final_table(result: Result) -> None:
    """The best distiller, the table of the final trainings, and where the files are."""
    console.print(f"\nbest distiller, proxy AP {result.best.score:.3f}:\n{result.best.distiller}\n")
    if result.trainings:
        training_table(result.trainings)
    console.print(f"distiller: {result.distiller_file}", soft_wrap=True, highlight=False)


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
        table.add_row("student alone" if name == "none" else name, *cells)
    console.print(table)
    for name, group in groups.items():
        console.print(f"{name}: {group[0][0].checkpoint}", soft_wrap=True, highlight=False)


_ENDS = ("", "_50", "_75", "_s", "_m", "_l")


def _spread(values: list[float]) -> str:
    points = 100 * np.array(values)
    if (points < 0).any() or np.isnan(points).any():
        return "-"
    text = f"{points.mean():.1f}"
    return text if len(values) == 1 else f"{text} ± {points.std(ddof=1):.1f}"


def teacher_table(pool: Pool, algorithm: str, most: int | None) -> None:
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
            order = " → ".join(teacher_order(pool, name, most).teachers)
        except WrongUse as error:  # too many paths to try, which is no fault of the one chosen
            order = str(error)
        console.print(f"{mark} {name:13} {order}", highlight=False)
    console.print(f"{algorithm} stops: {teacher_order(pool, algorithm, most).reason}")


def _heat(cost: float | None, known: list[float]) -> Text:
    """The lower the greener, by rank: costs of levels and models differ by orders of magnitude."""
    if cost is None:
        return Text("-")
    share = sum(other < cost for other in known) / max(len(known) - 1, 1)
    return Text(f"{cost:.3g}", style=f"on rgb({int(40 + 150 * share)},{int(130 - 90 * share)},60)")


def trial_table(records: list[dict[str, Any]]) -> None:
    table = Table()
    for column in ("search", "trial", "stage", "status", "AP", "distiller or reason"):
        table.add_column(column)
    for record in records:
        score = "" if record["score"] is None else f"{record['score']:.3f}"
        text = str(record["notation"]).replace("\n", "; ")
        why = record["reason"] or (record["error"] or "").strip().split("\n")[-1]
        table.add_row(
            record["search"],
            str(record["number"]),
            record["stage"],
            str(record["status"]),
            score,
            f"{text} ({why})" if why else text,
        )
    console.print(table)


def proxy_table(files: ProxyFiles) -> None:
    table = Table(title="deviation: share of boxes in another class or size than the whole set's")
    for column in ("subset", "images", "boxes", "deviation", "small / medium / large"):
        table.add_column(column)
    report = files.report
    for name, part in (("whole", report.whole), ("train", report.train), ("val", report.val)):
        sizes = " / ".join(f"{share:.1%}" for share in part.size_shares.values())
        table.add_row(name, str(part.images), str(part.boxes), f"{part.deviation:.3f}", sizes)
    console.print(table)
    console.print(f"{files.train_path}\n{files.val_path}", soft_wrap=True, highlight=False)


def space_listing(space: SearchSpace) -> None:
    """Every option of a search space, a line a slot."""
    for knowledge, options in space.options.items():
        console.print(f"{knowledge} ({len(options)} terms)", highlight=False)
        slots = list(zip(options.slot_names, options.transforms, strict=True))
        slots += [
            ("distance", options.distances),
            ("weight", tuple(map("{:g}".format, options.weights))),
        ]
        slots += [("schedule", options.schedules)] if len(options.schedules) > 1 else []
        for name, choices in slots:
            console.print(f"  {name:9}  {' | '.join(choices)}", soft_wrap=True, highlight=False)
    console.print(f"{len(space)} terms in all", highlight=False)
