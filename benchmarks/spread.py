"""What the benchmarks share: how they print what they measured, and the data of a quick run."""

from __future__ import annotations

import statistics

#: Options that cut the quickstart's data and its teachers' trainings down to seconds.
QUICK = [
    "data.synthetic.train=96",
    "data.synthetic.val=16",
    "data.synthetic.test=8",
    "data.synthetic.size=64",
    "data.image_size=(64,64)",
    "proxy.train_images=80",
    "proxy.val_images=16",
    "teacher.schedule.epochs=1",
]


def over_seeds(scores: list[float]) -> list[str]:
    """AP in points: the mean and standard deviation over seeds, then the AP of each seed."""
    points = [100 * score for score in scores]
    deviation = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return [f"{statistics.mean(points):.1f}{deviation}", *(f"{point:.1f}" for point in points)]


def spread(values: list[float], form: str = ",.1f", unit: str = "") -> str:
    """The median and, in brackets, the minimum and the maximum."""
    middle, least, most = (f"{f(values):{form}}" for f in (statistics.median, min, max))
    return f"{middle}{unit and ' ' + unit} ({least} to {most})"
