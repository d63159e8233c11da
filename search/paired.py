"""How sure it is that one distiller is better than another, from trainings under the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def probability_better(differences: Sequence[float]) -> float | None:
    """The probability that the mean difference is above 0.

    ``differences``: APs of the one minus APs of the other, a difference a seed. Student's t under a
    flat prior. None for fewer than two differences.
    """
    if len(differences) < 2:
        return None
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    from scipy.special import stdtr  # not above: it takes a second, and most pages need none

    t = mean / (spread / math.sqrt(len(differences)))
    return float(stdtr(len(differences) - 1, t))  # Student's t, cumulated
