"""Where a search stands, in parts that every screen shows: its curve, leaders and reasons."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from rich.table import Table
from rich.text import Text

from ..db import TrialRow, ranked
from ..space import Status
from .console import in_one_line
from .listing import in_points

BARS = "▁▂▃▄▅▆▇█"
#: Columns of the sparkline, and leaders of a stage.
WIDTH, LEADERS = 60, 5
#: Looking takes at most this share of the time: a store of many trials is read less often.
SHARE = 0.1
#: So many trials are read in no time.
MANY = 1000


def curve(trials: Sequence[TrialRow]) -> list[Text]:
    """The search's curve: the best score after each trial; no line before the first score."""
    best = best_so_far(trials)
    return [Text(f"best so far  {sparkline(best)}")] if best else []


def best_so_far(trials: Sequence[TrialRow]) -> list[float]:
    """The best score after each completed trial, in the order in which outcomes were told."""
    told = sorted(
        (t for t in trials if t.score is not None), key=lambda t: (t.tell_order or 0, t.number)
    )
    best: list[float] = []
    for trial in told:
        best.append(max([trial.score or 0.0, *best[-1:]]))
    return best


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as bars, at most ``width``: each stands for the last value of its share.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▄█ 0.0 → 100.0'
    """
    count = min(len(values), width)
    shown = [values[(place + 1) * len(values) // count - 1] for place in range(count)]
    low, high = min(values), max(values)
    steps = [(value - low) / (high - low) if high > low else 0.0 for value in shown]
    bars = "".join(BARS[int(step * (len(BARS) - 1))] for step in steps)
    return f"{bars} {in_points(values[0])} → {in_points(values[-1])}"


def leaderboard(
    trials: Sequence[TrialRow],
    stages: Collection[str] = (),
    done: Collection[str] = (),
    rows: int | None = None,
) -> Table:
    """The best trials of each stage, and the stages that have none yet, of ``stages``.

    A stage that is ``done`` has a mark. ``rows``: how many the table has about; then each is one
    line, and a stage has fewer leaders where five of each would be more. None: as many as there
    are, each as long as it is.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "AP", "trial"):
        table.add_column(column, no_wrap=True)
    table.add_column("distiller", no_wrap=rows is not None, overflow="ellipsis")
    named = list(dict.fromkeys([*stages, *(trial.stage for trial in trials)]))
    leaders = LEADERS if rows is None else max(1, min(LEADERS, rows // max(len(named), 1)))
    mark = ("  ", "✓ ") if stages else ("", "")
    for stage in named:
        best = ranked([trial for trial in trials if trial.stage == stage])[:leaders]
        name = Text(mark[stage in done] + stage)
        if not best:
            table.add_row(name)
        for place, trial in enumerate(best):
            cells = in_points(trial.score), str(trial.number), in_one_line(trial.notation)
            table.add_row("" if place else name, *map(Text, cells))
    return table


def reason(trials: Sequence[TrialRow]) -> list[Text]:
    """The commonest reason of rejections and failures, if there are any."""
    ended = (Status.REJECTED, Status.FAILED)
    reasons = Counter(trial.why for trial in trials if trial.status in ended)
    if not reasons:
        return []
    why, count = reasons.most_common(1)[0]
    return [Text(f"rejected or failed, most often ({count}): {why}")]


class Looked:
    """The trials of a search, read again where there are more outcomes.

    Of more than :data:`MANY` trials, reading takes a share of the time at most (:data:`SHARE`).
    """

    def __init__(self, read: Callable[[], Sequence[TrialRow]]) -> None:
        self._read = read
        self._outcomes, self._next = -1, 0.0
        self.trials: Sequence[TrialRow] = ()

    def __call__(self, outcomes: int) -> Sequence[TrialRow]:
        """``outcomes``: how many there are by now."""
        began = time.monotonic()
        if outcomes != self._outcomes and (len(self.trials) <= MANY or began >= self._next):
            self.trials, self._outcomes = self._read(), outcomes
            self._next = began + (time.monotonic() - began) / SHARE
        return self.trials
