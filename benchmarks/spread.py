"""How benchmarks print what they measured."""

from __future__ import annotations

import statistics


def spread(values: list[float], form: str = ",.1f", unit: str = "") -> str:
    """The median and, in brackets, the least and the most."""
    middle, least, most = (f"{f(values):{form}}" for f in (statistics.median, min, max))
    return f"{middle}{unit and ' ' + unit} ({least} to {most})"
