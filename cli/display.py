"""What a search shows while it runs: a display that redraws itself, or lines in a log."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..space import Status
from .console import console, in_one_line
from .interrupts import interrupts
from .listing import in_points, references
from .remaining import AtWork, at_work, in_brief, time_left
from .standing import Looked, curve, leaderboard, reason

if TYPE_CHECKING:
    from ..search.session import Running, Session

#: Without a terminal, at least so many seconds lie between two lines, unless something happens.
LINE_EVERY = 60.0
#: Lines of a screen that the leaders leave to others: a head, the best distiller, what is said.
OTHERS = 12


class SearchDisplay:
    """Shows counts, the time left, the search's curve, the best trials by stage, and what runs.

    Trainings that run after the trials stand in the middle, each with a bar. On a terminal the
    display redraws in place; elsewhere it prints a line once a minute, and when a trial takes the
    lead or a training ends.
    ``continue_command``: the command that continues an interrupted search or training, which the
    display then prints; "" prints nothing. ``before`` is printed instead until the cluster is
    there: nothing is stored before.
    """

    def __init__(self, continue_command: str, before: str | None = None) -> None:
        self._later = continue_command
        self._continue_command = continue_command if before is None else before
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._above: list[RenderableType] = []
        self._below: list[RenderableType] = []
        self._last_time, self._last_line = 0.0, ""
        self._leader: object = None
        self._looked: Looked | None = None

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
            with suppress(OSError):  # the terminal may be closed
                self._live.stop()
        signalled = isinstance(error, KeyboardInterrupt) or interrupts.number is not None
        if error is not None and signalled and self._continue_command:
            interrupts.tell(self._continue_command, partial(console.print, soft_wrap=True))

    def dashboard(self, address: str) -> None:
        """Say where Ray's dashboard is, and what it asks for; "" if Ray runs without a dashboard.

        From now on, what is interrupted is in the store.
        """
        interrupts.command = self._continue_command = self._later
        if address:
            self.say(f"Ray dashboard: {address}")

    def say(self, text: str) -> None:
        """Print a line. A log on a full disk, or a terminal that is closed, ends no search."""
        with suppress(OSError):
            console.print(text, soft_wrap=True, highlight=False)

    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None:
        """Show trainings that run side by side.

        ``progress``: the iterations done and all iterations of each training, (0, 0) before the
        first iteration.
        """
        if self._live:
            self._live.update(Group(*self._above, _trainings(names, progress), *self._below))
            return
        parts = [f"{name} {_done(one)}" for name, one in zip(names, progress, strict=True)]
        finished = all(total and done == total for done, total in progress)
        self._line("training: " + ", ".join(parts), now=finished)

    def search(self, session: Session, planned: int) -> None:
        """Show where a search stands; ``planned``: how many trials it takes without rejections."""
        counts = session.store.counts(session.search_id)
        stopped = counts[Status.STOPPED]
        done = counts[Status.COMPLETED] + stopped
        running = [_at_work(one) for one in session.running.values()]
        summary = (
            f"{done}/{planned} trials done, {stopped} of them stopped early, "
            f"{counts[Status.REJECTED]} rejected, {counts[Status.FAILED]} failed, "
            f"{counts[Status.RUNNING]} running"
        )
        if counts[Status.QUEUED]:
            summary += f", {counts[Status.QUEUED]} waiting for a worker"
        took = session.took, session.lost
        summary += f"; {time_left(*took, running, session.workers, planned - done)}"
        best = session.controller.best
        if best is None:
            leader = "no completed trial yet"
        else:
            candidate, outcome = best
            leader = (
                f"best AP {in_points(outcome.score)} (trial {candidate.number}): "
                f"{in_one_line(candidate.distiller)}"
            )
        compared = references(session.controller.alone, session.teacher)
        if self._live:
            if self._looked is None:
                self._looked = Looked(partial(session.store.trials, session.search_id))
            trials = self._looked(session.outcomes)
            # A bar ends without a new line, and would share its line with the table.
            bar = Padding(ProgressBar(total=planned, completed=done, width=60), 0)
            self._above = [Text(summary), bar, *reason(trials), *curve(trials)]
            lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in at_work(running)]
            stages = session.controller.stages
            ended = [name for name, algorithm in stages.items() if algorithm.done]
            room = console.height - len(self._above) - len(lines) - OTHERS
            self._below = [leaderboard(trials, stages, ended, room), *lines]
            self._below += map(Text, filter(None, (leader, compared)))
            self._live.update(Group(*self._above, *self._below))
        else:
            parts = summary, in_brief(running), leader, compared
            leads, self._leader = leader != self._leader, leader
            self._line("; ".join(filter(None, parts)), now=session.done or leads)

    def _line(self, text: str, now: bool) -> None:
        """Print a line that says something new, ``now`` or if the last line is old enough."""
        if text == self._last_line:
            return
        if now or time.monotonic() - self._last_time > LINE_EVERY:
            self._last_time, self._last_line = time.monotonic(), text
            self.say(text)


def _at_work(running: Running) -> AtWork:
    candidate = running.candidate
    return AtWork(
        candidate.number,
        candidate.stage,
        running.seconds,
        f"{running.host} {running.device}",
        str(candidate.distiller),
        running.progress,
    )


def _trainings(names: list[str], progress: list[tuple[int, int]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("training", no_wrap=True)
    table.add_column("", width=30)
    table.add_column("iterations", no_wrap=True)
    for name, (done, total) in zip(names, progress, strict=True):
        table.add_row(name, ProgressBar(total or 1, done), _done((done, total)))
    return table


def _done(progress: tuple[int, int]) -> str:
    done, total = progress
    return f"{done}/{total}" if total else "waiting"
