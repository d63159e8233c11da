"""What runs now, and how long the trials still take: the same words on all screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from ..space import Progress
from .console import in_one_line

#: So many trials at work are shown, a line each.
MOST = 8
#: Four in five of a normal distribution lie within so many standard deviations.
_FOUR_IN_FIVE = 1.28
#: From so many known durations on, the time left has a spread.
_KNOWN = 3


@dataclass(frozen=True)
class AtWork:
    """A trial at a worker, for so many seconds. ``notation``: its distiller's."""

    number: int
    stage: str
    seconds: float
    place: str
    notation: str
    progress: Progress | None

    def __str__(self) -> str:
        known = "" if self.progress is None else f", {self.progress}"
        left = None if self.progress is None else self.progress.seconds_left
        known += f", {in_words(left)} left" if left else ""
        since = f"{self.number} {self.stage} for {in_words(self.seconds)} on {self.place}"
        return f"{since}{known}: {in_one_line(self.notation)}"


def at_work(running: Sequence[AtWork]) -> list[str]:
    """The trials at work, a line each, and how many there are besides."""
    lines = [f"running  {one}" for one in running[:MOST]]
    return lines + ([f"… and {len(running) - MOST} more"] if len(running) > MOST else [])


def in_brief(running: Sequence[AtWork]) -> str:
    """How far the trials at work are, in one line; "" where nothing is known of any.

    >>> in_brief([AtWork(17, "logits", 60, "host cpu", "", Progress(120, 400))])
    'trial 17 at 30 %'
    """
    known = [(one.number, one.progress) for one in running if one.progress is not None]
    parts = [f"trial {n} at {p.iteration / p.iterations:.0%}" for n, p in known[:MOST]]
    return ", ".join(parts).replace("%", " %")


def time_left(
    took: Sequence[float], lost: float, running: Sequence[AtWork], workers: int, left: int
) -> str:
    """How long the trials still take, with the range that holds it four times in five.

    ``took``: the seconds of the trials that workers have scored; what was reused from the store
    takes no time and is none of them. ``lost``: the seconds of those that were rejected or failed,
    which come again at the same rate. ``left``: trials of the plan without a score.

    >>> time_left([60, 60, 60], 0, [], workers=2, left=4)
    'about 2 min left of the trials'
    """
    if left <= 0:
        return "the trials are done"
    expected = [one.seconds + rest for one in running if (rest := _rest(one)) is not None]
    known = list(took) or expected
    if not known:
        return "time left unknown yet"
    each = fmean(known) + (lost / len(took) if took else 0.0)
    rests = [max(each - one.seconds, _rest(one) or 0.0, 0.0) for one in running][:left]
    new = left - len(rests)
    total = max([(sum(rests) + new * each) / max(workers, 1), *rests])
    text = f"about {in_words(total)} left of the trials"
    if len(known) < _KNOWN:
        return text
    # The trials to come vary, and their mean is known from few.
    deviation = math.sqrt(variance(known) * (new + new**2 / len(known))) / max(workers, 1)
    low = in_words(max(total - _FOUR_IN_FIVE * deviation, *rests, 0.0))
    high = in_words(total + _FOUR_IN_FIVE * deviation)
    return text if low == high else f"{text} ({low} to {high})"


def _rest(one: AtWork) -> float | None:
    return None if one.progress is None else one.progress.seconds_left


def in_words(seconds: float) -> str:
    """A duration in the unit that fits it.

    >>> in_words(89), in_words(600), in_words(9000)
    ('89 s', '10 min', '2.5 h')
    """
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"
