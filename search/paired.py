"""How sure it is that one distiller is better than another, from trainings under the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def probability_better(differences: Sequence[float]) -> float | None:
    """The probability that the mean difference is above 0.

    ``differences``: APs of the one minus APs of the other, a difference a seed. Student's t under a
    flat prior. None for fewer than two differences.
    """
    if len(differences) < 2:
        return None
    mean, spread = np.mean(differences), np.std(differences, ddof=1)
    if spread == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    t = mean / (spread / math.sqrt(len(differences)))
    return float(stats.t.cdf(t, len(differences) - 1))
