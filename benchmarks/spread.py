"""How benchmarks print what they measured."""

from __future__ import annotations

import statistics


def over_seeds(scores: list[float]) -> list[str]:
    """AP in points: the mean and standard deviation over seeds, then each of them."""
    points = [100 * score for score in scores]
    deviation = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return [f"{statistics.mean(points):.1f}{deviation}", *(f"{point:.1f}" for point in points)]


def spread(values: list[float], form: str = ",.1f", unit: str = "") -> str:
    """The median and, in brackets, the least and the most."""
    middle, least, most = (f"{f(values):{form}}" for f in (statistics.median, min, max))
    return f"{middle}{unit and ' ' + unit} ({least} to {most})"
