"""A Gaussian process over distillers: what to expect of those that the table does not hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detkds.space import Distiller, SearchSpace

#: Weights from 0.1 to 10 become -1 to 1.
_WEIGHT_SPAN = math.log(10.0)
#: What is tried for the kernel: the share of the part without interactions between terms, the
#: length scale of the other part, and the noise, as a share of the values' variance.
_ADDITIVE, _LENGTHS, _NOISES = (0.1, 0.4, 0.8), (1.0, 2.0, 4.0), (0.03, 0.1, 0.3, 1.0)


class Features:
    """Numbers of a distiller: for each kind of knowledge, whether there is a term, its choice in
    each slot, the logarithm of its weight, and the same for each distance apart."""

    def __init__(self, space: SearchSpace) -> None:
        names = [
            (knowledge, slot, choice)
            for knowledge, options in space.options.items()
            for slot, choices in enumerate((*options.transforms, options.distances))
            for choice in choices
        ]
        self._place = {name: i for i, name in enumerate(names)}
        more = [(k, what) for k in space.knowledge for what in ("term", "weight", "weight²")]
        more += [
            (k, f"weight of {distance}")
            for k in space.knowledge
            for distance in space.options[k].distances
        ]
        self._place |= {name: len(names) + i for i, name in enumerate(more)}  # type: ignore[misc]

    def __call__(self, distillers: Sequence[Distiller | None]) -> np.ndarray:
        """Shape (distillers, features). A choice outside of the space counts for nothing."""
        found = np.zeros((len(distillers), len(self._place)))
        for row, distiller in zip(found, distillers, strict=True):
            for term in () if distiller is None else distiller.active:
                weight = math.log(term.weight) / _WEIGHT_SPAN
                own: dict[tuple, float] = {
                    (term.knowledge, slot, choice): 0.5
                    for slot, choice in enumerate((*term.applied, term.distance))
                }
                own[term.knowledge, "term"] = 1.0
                own[term.knowledge, "weight"] = weight
                own[term.knowledge, "weight²"] = 0.5 * weight**2
                own[term.knowledge, f"weight of {term.distance}"] = weight
                for name, value in own.items():
                    place = self._place.get(name)  # type: ignore[call-overload]
                    if place is not None:
                        row[place] = value
        return found


@dataclass(frozen=True)
class Kernel:
    """The sum of an inner product (terms add up) and a Gaussian (terms interact)."""

    additive: float
    length: float

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(n, features) and (m, features) to (n, m)."""
        inner = first @ second.T
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * inner
        near = np.exp(-squares.clip(0) / (2 * self.length**2))
        return self.additive * inner / 4 + (1 - self.additive) * near


class Surrogate:
    """Gaussian process regression of several values at once, fitted by leaving rows out in turn.

    ``features``: (n, features); ``values``: (n, values); ``runs``: how many runs each row is the
    mean of. Kernel and noise are those of the smallest error of the last value over the rows left
    out, each predicted from the others (in closed form: Rasmussen and Williams, formula 5.12).
    """

    def __init__(self, features: np.ndarray, values: np.ndarray, runs: np.ndarray) -> None:
        self._features = features
        self._mean, self._scale = values.mean(0), values.std(0) + 1e-9
        wanted = (values - self._mean) / self._scale
        best = math.inf
        for additive, length, noise in itertools.product(_ADDITIVE, _LENGTHS, _NOISES):
            kernel = Kernel(additive, length)
            inverse = np.linalg.inv(kernel(features, features) + np.diag(noise / runs))
            solved = inverse @ wanted
            left_out = wanted - solved / np.diag(inverse)[:, None]
            error = float(((left_out - wanted)[:, -1] ** 2).mean())
            if error < best:
                best, self.kernel, self.noise = error, kernel, noise
                self._solved = solved
                #: What is expected of each row from the other rows: (n, values).
                self.left_out = left_out * self._scale + self._mean

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """What is expected: (m, features) to (m, values)."""
        return self.kernel(features, self._features) @ self._solved * self._scale + self._mean
