"""Charts as plain numbers: marks in a square of 1000 x 1000, which the page stretches, and ticks.

The page draws them as SVG with strokes that do not scale, so that a chart fits a telephone and a
wide screen, and zooming is another viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..db import TrialRow
from ..space import Status
from .facts import points

SIDE = 1000


@dataclass(frozen=True)
class Mark:
    """A dot, with the name of its style and what it says when it is pointed at."""

    x: float
    y: float
    style: str
    text: str


@dataclass(frozen=True)
class Line:
    """A line through points, with the name of its style."""

    points: Sequence[tuple[float, float]]
    style: str


@dataclass(frozen=True)
class Chart:
    """Marks and lines over two axes, in the units of the axes.

    ``legend``: (style, text). ``floor``: ticks of the y axis begin here; below are marks without a
    value.
    """

    title: str
    x_label: str
    y_label: str
    marks: Sequence[Mark]
    lines: Sequence[Line] = ()
    legend: Sequence[tuple[str, str]] = ()
    floor: float | None = None
    whole_x: bool = True
    x_range: tuple[float, float] = field(init=False)
    y_range: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        along = [p for line in self.lines for p in line.points]
        xs = [m.x for m in self.marks] + [x for x, _ in along]
        ys = [m.y for m in self.marks] + [y for _, y in along]
        object.__setattr__(self, "x_range", _padded(xs))
        object.__setattr__(self, "y_range", _padded(ys))

    def place(self, x: float, y: float) -> tuple[str, str]:
        """A point's place in the square."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return _short(SIDE * (x - x0) / (x1 - x0)), _short(SIDE * (y1 - y) / (y1 - y0))

    def dot(self, mark: Mark) -> str:
        """The path of a mark: a stroke of nearly no length, whose round end is the dot."""
        x, y = self.place(mark.x, mark.y)
        return f"M{x} {y}h.01"

    def path(self, line: Line) -> str:
        return "M" + "L".join(" ".join(self.place(x, y)) for x, y in line.points)

    def x_ticks(self) -> list[tuple[float, str]]:
        """(share of the width, label) of each tick."""
        low, high = self.x_range
        ticks = nice_ticks(low, high)
        ticks = [t for t in ticks if float(t).is_integer()] if self.whole_x else ticks
        return [((t - low) / (high - low), f"{t:g}") for t in ticks]

    def y_ticks(self) -> list[tuple[float, str]]:
        """(share of the height, from above, label) of each tick."""
        low, high = self.y_range
        floor = low if self.floor is None else self.floor
        return [
            ((high - t) / (high - low), f"{t:g}")
            for t in nice_ticks(low, high)
            if t >= floor - 1e-9
        ]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range around the values that is never empty."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.03 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - pad, high + pad


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` + 1 round numbers between ``low`` and ``high``.

    >>> nice_ticks(0, 23)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


#: How far below the lowest score the trials without a score stand, in shares of the scores' range.
_BELOW = {Status.REJECTED: 0.08, Status.FAILED: 0.16}


def search_curve(title: str, trials: Sequence[TrialRow]) -> Chart:
    """APs of trials in the order of asking, the best so far, and below the trials without an AP.

    A trial that was stopped stands at its early score.
    """
    heights = {trial.number: _height(trial) for trial in trials}
    known = [height for height in heights.values() if height is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = (high - low) or 1.0
    marks = []
    for trial in trials:
        height, status = heights[trial.number], trial.status
        if height is None and status in _BELOW:
            height = low - _BELOW[status] * span
        if height is not None:
            marks.append(Mark(trial.number, height, status.value, _tell(trial)))
    counts = {s: sum(trial.status is s for trial in trials) for s in Status}
    shown = (Status.COMPLETED, Status.STOPPED, Status.REJECTED, Status.FAILED)
    legend = [(s.value, f"{s.value} ({counts[s]})") for s in shown if counts[s]]
    best = _best_so_far(trials)
    if best:
        legend.append(("best", "best so far"))
    return Chart(
        title=title,
        x_label="trial",
        y_label="proxy AP",
        marks=marks,
        lines=[Line(best, "best")] if len(best) > 1 else (),
        legend=legend,
        floor=low - 0.03 * span,
    )


def _height(trial: TrialRow) -> float | None:
    """A trial's AP in points, or its early score."""
    value = trial.early_score if trial.status is Status.STOPPED else trial.score
    return None if value is None else 100 * value


def _tell(trial: TrialRow) -> str:
    early = trial.status is Status.STOPPED
    score = f", early AP {points(trial.early_score)}" if early else f", AP {points(trial.score)}"
    return f"trial {trial.number}, {trial.stage}, {trial.status.value}" + (
        score if early or trial.score is not None else ""
    )


def _best_so_far(trials: Sequence[TrialRow]) -> list[tuple[float, float]]:
    """The corners of the steps that the best score takes."""
    corners: list[tuple[float, float]] = []
    for trial in trials:
        if trial.score is not None and (not corners or 100 * trial.score > corners[-1][1]):
            if corners:
                corners.append((trial.number, corners[-1][1]))
            corners.append((trial.number, 100 * trial.score))
    if corners:
        corners.append((trials[-1].number, corners[-1][1]))
    return corners
