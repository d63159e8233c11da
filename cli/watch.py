"""What `detkds watch` shows of a search, from its store alone: the search may run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from statistics import median, quantiles
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..db import SearchRow, Store, TrainingRow, TrialRow, ranked
from ..db.rows import SCORED, teacher_ap
from ..db.runners import runner_and_doing
from ..space import Progress, Status
from .console import console, in_one_line
from .listing import in_points, references
from .remaining import AtWork, at_work, in_brief, in_words, time_left
from .standing import SHARE, curve, leaderboard, reason

#: Seconds between two looks, and between two lines where there is no terminal.
EVERY, LINE_EVERY = 2.0, 60.0


def watch(store: Store, name: str, once: bool = False) -> None:
    """Show a search until it is finished; ``once``: as it is now, and return.

    Raises :class:`WrongUse` for a name that the store does not hold.
    """
    if once or not console.is_terminal:
        return _lines(store, name, once)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            seen = look(store, name)
            live.update(picture(seen), refresh=True)
            if seen.search.finished is not None:
                return
            time.sleep(max(EVERY, (time.monotonic() - began) / SHARE))


def _lines(store: Store, name: str, once: bool) -> None:
    """The picture once, or a line whenever something has changed, at most one a minute."""
    last = ""
    while True:
        seen = look(store, name)
        if once:
            return console.print(picture(seen))
        parts = summary(seen.trials), seen.time_left, in_brief(seen.at_work), leader(seen.trials)
        line = "; ".join(filter(None, parts))
        if line != last:
            console.print(line, soft_wrap=True, highlight=False)
            last = line
        if seen.search.finished is not None:
            return None
        time.sleep(LINE_EVERY)


@dataclass(frozen=True)
class Seen:
    """A search, its trials and trainings, who runs it now, and what that driver says it does.

    ``doing``: as :attr:`detkds.search.session.Session.doing` has it, or how far trainings are.
    """

    search: SearchRow
    trials: Sequence[TrialRow]
    trainings: Sequence[TrainingRow]
    runner: str | None = None
    doing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at_work(self) -> list[AtWork]:
        """The trials at workers."""
        known = self.doing.get("trials", {})
        return [
            AtWork(
                trial.number,
                trial.stage,
                _seconds(trial),
                " ".join(filter(None, (trial.host, trial.device))),
                trial.notation,
                Progress(**known[str(trial.number)]) if str(trial.number) in known else None,
            )
            for trial in self.trials
            if trial.status is Status.RUNNING
        ]

    @property
    def time_left(self) -> str:
        """How long the trials still take; "" if nobody runs them now."""
        if "planned" not in self.doing:
            return ""
        own = [trial for trial in self.trials if trial.seconds and trial.reused_from is None]
        took = [trial.seconds or 0.0 for trial in own if trial.status in SCORED]
        lost = sum(trial.seconds or 0.0 for trial in own) - sum(took)
        left = self.doing["planned"] - sum(trial.status in SCORED for trial in self.trials)
        return time_left(took, lost, self.at_work, self.doing["workers"], left)


def look(store: Store, name: str) -> Seen:
    """What the store says of a search now."""
    search = store.search(name)
    found = runner_and_doing(store, name) or (None, {})
    return Seen(search, store.trials(search.id), store.trainings(search.id), *found)


def picture(seen: Seen) -> Group:
    """All that the store says of a search, for a terminal."""
    search, trials, trainings, runner = seen.search, seen.trials, seen.trainings, seen.runner
    state = f"run by {runner}" if runner else "interrupted: nobody runs it now"
    if search.finished is not None:
        state = f"finished {search.finished:%Y-%m-%d %H:%M} UTC"
    parts: list[Text | Table] = [
        Text(f"{search.name}: {state}"),
        Text("; ".join(filter(None, (summary(trials), seen.time_left)))),
        *reason(trials),
        *curve(trials),
    ]
    if any(trial.score is not None for trial in trials):
        parts.append(leaderboard(trials))
    own = [row for row in trainings if row.status is Status.RUNNING]
    parts += map(Text, at_work(seen.at_work))
    steps = seen.doing.get("trainings", {})
    parts += [Text(f"training  {_training(row, steps.get(row.label))}") for row in own]
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


def _training(row: TrainingRow, steps: Sequence[int] | None) -> str:
    """``steps``: the iterations done and all iterations; (0, 0) before the first."""
    since = "" if row.started is None else f" for {in_words(_seconds(row))}"
    far = f", iteration {steps[0]}/{steps[1]}" if steps and steps[1] else ""
    return f"{row.name}, seed {row.seed}{since}{far}"


def _seconds(row: TrialRow | TrainingRow) -> float:
    """Since a run started."""
    if row.started is None:
        return 0.0
    return (datetime.now(timezone.utc) - row.started).total_seconds()
