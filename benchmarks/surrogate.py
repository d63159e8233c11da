"""A Gaussian process over distillers: what to expect of those that the table does not hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detkds.space import Distiller, Term
from table_rows import Shared, form_of

#: Weights from 0.1 to 10 become -1 to 1.
_SPAN = math.log(10.0)
#: What is tried for the kernel: the share of the part without interactions between terms, the
#: length scale of the other part, and the noise, as a share of the values' variance.
_ADDITIVE, _LENGTHS, _NOISES = (0.1, 0.4, 0.8), (1.0, 2.0, 4.0), (0.03, 0.1, 0.3, 1.0)


class Features:
    """A distiller in numbers, for each kind of knowledge apart.

    Whether there is a term; its choice in each slot; the logarithm of its weight, of the size of
    its gradient in shares of the detection loss's where the sizes are known, and the square of the
    latter; and the same logarithm for each distance apart.
    """

    def __init__(self, shared: Shared) -> None:
        self._sizes = shared.sizes
        options = shared.space.options
        names: list[tuple[str, ...]] = [(kind, what) for kind in options for what in _OF_TERMS]
        for kind, own in options.items():
            names += [(kind, f"strength of {distance}") for distance in own.distances]
            for slot, choices in enumerate((*own.transforms, own.distances)):
                names += [(kind, str(slot), choice) for choice in choices]
        self._place = {name: place for place, name in enumerate(names)}

    def __call__(self, distillers: Sequence[Distiller]) -> np.ndarray:
        """Shape (distillers, features). A choice outside of the space counts for nothing."""
        found = np.zeros((len(distillers), len(self._place)))
        for row, distiller in zip(found, distillers, strict=True):
            for term in distiller.active:
                for own, value in self._of_term(term).items():
                    name = (term.knowledge, *own)
                    if name in self._place:
                        row[self._place[name]] = value
        return found

    def _of_term(self, term: Term) -> dict[tuple[str, ...], float]:
        weight = math.log(term.weight) / _SPAN
        strength = weight + math.log(self._sizes.get(form_of(term), 1.0)) / _SPAN
        choices = enumerate((*term.applied, term.distance))
        return {
            ("term",): 1.0,
            ("weight",): weight,
            ("strength",): strength,
            ("strength²",): 0.5 * strength**2,
            (f"strength of {term.distance}",): strength,
            **{(str(slot), choice): 0.5 for slot, choice in choices},
        }


_OF_TERMS = ("term", "weight", "strength", "strength²")


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
