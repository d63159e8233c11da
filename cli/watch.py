"""What `detkds watch` shows of a search, from its store alone: the search may run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import median, quantiles

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..db import SearchRow, Store, TrainingRow, TrialRow, ranked
from ..db.rows import teacher_ap
from ..db.runners import runner_of
from ..space import Status
from .console import console, in_one_line
from .listing import in_points, references

BARS = "▁▂▃▄▅▆▇█"
#: Columns of the sparkline, and leaders of a stage.
WIDTH, LEADERS = 60, 5
#: Seconds between two looks, and between two lines where there is no terminal.
EVERY, LINE_EVERY = 2.0, 60.0
#: Looking takes at most this share of the time: a store of many trials is read less often.
SHARE = 0.1


def watch(store: Store, name: str, once: bool = False) -> None:
    """Show a search until it is finished; ``once``: as it is now, and return.

    Raises :class:`WrongUse` for a name that the store does not hold.
    """
    if once or not console.is_terminal:
        return _lines(store, name, once)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            search, trials, trainings, runner = look(store, name)
            live.update(picture(search, trials, trainings, runner), refresh=True)
            if search.finished is not None:
                return
            time.sleep(max(EVERY, (time.monotonic() - began) / SHARE))


def _lines(store: Store, name: str, once: bool) -> None:
    """The picture once, or a line whenever something has changed, at most one a minute."""
    last = ""
    while True:
        search, trials, trainings, runner = look(store, name)
        if once:
            return console.print(picture(search, trials, trainings, runner))
        line = f"{summary(trials)}; {leader(trials)}"
        if line != last:
            console.print(line, soft_wrap=True, highlight=False)
            last = line
        if search.finished is not None:
            return None
        time.sleep(LINE_EVERY)


def look(
    store: Store, name: str
) -> tuple[SearchRow, list[TrialRow], list[TrainingRow], str | None]:
    """The search, its trials and trainings, and who runs it now."""
    search = store.search(name)
    return search, store.trials(search.id), store.trainings(search.id), runner_of(store, name)


def picture(
    search: SearchRow,
    trials: Sequence[TrialRow],
    trainings: Sequence[TrainingRow],
    runner: str | None,
) -> Group:
    """All that the store says of a search, for a terminal."""
    state = f"run by {runner}" if runner else "interrupted: nobody runs it now"
    if search.finished is not None:
        state = f"finished {search.finished:%Y-%m-%d %H:%M} UTC"
    parts: list[Text | Table] = [
        Text(f"{search.name}: {state}"),
        Text(f"{summary(trials)}{_reason(trials)}"),
    ]
    if any(trial.score is not None for trial in trials):
        parts += [Text(f"best so far  {sparkline(best_so_far(trials))}"), leaderboard(trials)]
    running = [trial for trial in trials if trial.status is Status.RUNNING]
    at_work = [row for row in trainings if row.status is Status.RUNNING]
    parts += [Text(f"running  {_running(trial)}") for trial in running]
    parts += [Text(f"training  {row.name}, seed {row.seed}{_since(row)}") for row in at_work]
    alone = next((t.score for t in ranked(trials) if not t.distiller.active), None)
    compared = references(alone, teacher_ap(trainings))
    return Group(*parts, *map(Text, filter(None, (leader(trials), compared))))


def summary(trials: Sequence[TrialRow]) -> str:
    """How many trials are in each state, and how long one takes."""
    counts = Counter(trial.status for trial in trials)
    states = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
    seconds = [t.seconds for t in trials if t.score is not None and t.seconds and not t.reused_from]
    text = f"{len(trials)} trials: {states}" if trials else "no trial yet"
    if not seconds:
        return text
    if len(seconds) < 4:
        return f"{text}; {median(seconds):.0f} s a trial"
    low, _, high = quantiles(seconds, n=4)
    return f"{text}; {median(seconds):.0f} s a trial, half of them {low:.0f} to {high:.0f} s"


def leader(trials: Sequence[TrialRow]) -> str:
    """The best trial so far, as the live display says it."""
    best = ranked(trials)[:1]
    if not best:
        return "no completed trial yet"
    (trial,) = best
    return f"best AP {in_points(trial.score)} (trial {trial.number}): {in_one_line(trial.notation)}"


def leaderboard(trials: Sequence[TrialRow]) -> Table:
    """The best trials of each stage."""
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "AP", "trial", "distiller"):
        table.add_column(column, no_wrap=column != "distiller")
    for stage in dict.fromkeys(trial.stage for trial in trials):
        best = ranked([trial for trial in trials if trial.stage == stage])[:LEADERS]
        for place, trial in enumerate(best):
            cells = in_points(trial.score), str(trial.number), in_one_line(trial.notation)
            table.add_row("" if place else Text(stage), *map(Text, cells))
    return table


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


def _reason(trials: Sequence[TrialRow]) -> str:
    """The commonest reason of rejections and failures."""
    ended = (Status.REJECTED, Status.FAILED)
    reasons = Counter(trial.why for trial in trials if trial.status in ended)
    if not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    return f"\nrejected or failed, most often ({count}): {reason}"


def _running(trial: TrialRow) -> str:
    place = " ".join(filter(None, (trial.host, trial.device)))
    notation = in_one_line(trial.notation)
    return f"{trial.number} {trial.stage}{_since(trial)} on {place}: {notation}"


def _since(row: TrialRow | TrainingRow) -> str:
    if row.started is None:
        return ""
    seconds = (datetime.now(timezone.utc) - row.started).total_seconds()
    return f" for {seconds:.0f} s" if seconds < 120 else f" for {seconds / 60:.0f} min"
