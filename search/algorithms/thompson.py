"""Thompson sampling from a linear model of scores: evolution proposes, the model chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from random import Random

import numpy as np

from ...settings import Search
from ...space import Distiller, Outcome
from .base import Algorithm
from .budget import Budgeted, value
from .stages import Stage

#: Proposals that the model chooses from.
PROPOSALS = 200
#: Parents are drawn from the so many distillers of the highest expected score.
PARENTS = 10
#: The share of proposals that are drawn at random, and the share that are crossovers.
FRESH, CROSSED = 0.2, 0.3
#: The most terms of the proposals among which the model chooses, drawn anew for each candidate;
#: None: any number. Each term adds to the variance of a draw: among unlike sizes, a large proposal
#: would win nearly always, and a term would never be tried alone.
SIZES = (1, 2, 3, None)
#: The share of mutants that are mutated once more.
AGAIN = 0.5
#: What is tried for the prior variances of the coefficients, where scores have a variance of 1:
#: for a kind of knowledge, and for a choice or a weight; and for the variance of a score's noise.
KINDS, CHOICES, NOISES = (0.02, 0.1, 0.5), (0.005, 0.02, 0.06, 0.25), (0.1, 0.3, 0.6, 1.0)
#: The prior variance of the mean, and of a pair of kinds in shares of that of a choice.
MEAN, PAIR = 1.0, 0.4
#: Scores that the prior is chosen by: so many, evenly over the search.
JUDGES = 200

#: What the model sees of a distiller: features, of which the first word is the kind, with values.
Features = Mapping[tuple[str | int, ...], float]


def thompson(stage: Stage, settings: Search, rng: Random) -> Algorithm:
    """Linear Thompson sampling over the children of the best distillers.

    As in BOCS (Baptista and Poloczek, ICML 2018), a Bayesian linear model with pairwise terms is
    fitted to all scores, and a draw of its coefficients is maximised. Three things differ: the
    prior is normal, so that a fit takes milliseconds, and its variances are those under which the
    scores are most likely; the maximum is over children of the best distillers, which stay near
    what is known to work, and some random ones; and these have at most one, two, three or any
    number of terms (:data:`SIZES`).
    """
    return Budgeted(stage, settings, rng, LinearThompson(stage))


class LinearThompson:
    """All scores so far, and the keys that are not to be proposed again."""

    learns = True

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._keys: set[str] = set()
        self._known: list[tuple[Distiller, Features]] = []
        self._scores: list[float] = []

    def propose(self, rng: Random) -> Distiller:
        """The proposal of the highest score under a draw of the coefficients.

        No distiller is proposed twice, unless twice :data:`PROPOSALS` hold nothing new.
        """
        chosen = self._best_proposal(rng) if self._scores else self._stage.random(rng)
        self.given(chosen)
        return chosen

    def given(self, distiller: Distiller) -> None:
        self._keys.add(distiller.key)

    def told(self, distiller: Distiller, outcome: Outcome) -> None:
        scored = value(outcome)
        if scored is not None:
            self._known.append((distiller, features(distiller)))
            self._scores.append(scored)

    def _best_proposal(self, rng: Random) -> Distiller:
        seen = [row for _, row in self._known]
        model = LinearModel(seen, self._scores)
        ranked = np.argsort(-_comparable(model.expected(seen)), kind="stable")
        parents = [self._known[index][0] for index in ranked[:PARENTS]]
        proposals = self._proposals(parents, rng)
        drawn = model.drawn([features(one) for one in proposals], rng)
        return proposals[int(np.argmax(_comparable(drawn)))]

    def _proposals(self, parents: Sequence[Distiller], rng: Random) -> list[Distiller]:
        found: dict[str, Distiller] = {}
        size = rng.choice(SIZES)
        for _ in range(2 * PROPOSALS):
            one = self._proposal(parents, rng)
            if size is not None:
                one = self._stage.fewer(one, size, rng)
            key = one.key
            if key not in self._keys:
                found.setdefault(key, one)
            if len(found) == PROPOSALS:
                break
        return list(found.values()) or [self._stage.random(rng)]

    def _proposal(self, parents: Sequence[Distiller], rng: Random) -> Distiller:
        """A random distiller, a crossover of two parents, or a mutant of one."""
        way = rng.random()
        if way < FRESH:
            return self._stage.random(rng)
        child = rng.choice(parents)
        if way < FRESH + CROSSED:
            return self._stage.crossover(child, rng.choice(parents), rng)
        child = self._stage.mutate(child, rng)
        while rng.random() < AGAIN:
            child = self._stage.mutate(child, rng)
        return child


def features(distiller: Distiller) -> Features:
    """The features of a distiller.

    For each term: that its kind of knowledge is there, the choice of each option, the logarithm of
    the weight to base 10, by the weight's unit, and its square. For each pair of terms: that both
    are there.
    """
    found: dict[tuple[str | int, ...], float] = {("mean",): 1.0}
    for term in distiller.active:
        kind, weight = term.knowledge, math.log10(term.weight)
        found["kind", kind] = 1.0
        for slot, choice in enumerate((*term.applied, term.distance, term.schedule)):
            found["choice", kind, slot, choice] = 1.0
        for power in (1, 2):
            found["weight", kind, term.unit, power] = weight**power
    for first, second in combinations([term.knowledge for term in distiller.active], 2):
        found["pair", first, second] = 1.0
    return found


class LinearModel:
    """Bayesian linear regression of scores on features, with a normal prior.

    Of the prior's variances and the noises that are tried, the model has those under which the
    scores are most likely (the evidence: Bishop 2006, formula 3.86). ``rows``: the features of each
    scored distiller, at least one. Scores are shifted and scaled to mean 0 and variance 1.
    """

    def __init__(self, rows: Sequence[Features], scores: Sequence[float]) -> None:
        self._places = {
            one: place for place, one in enumerate(dict.fromkeys(f for row in rows for f in row))
        }
        targets = np.array(scores) - np.mean(scores)
        targets /= np.std(targets) or 1.0
        design = self._design(rows)
        #: The prior variance by the kind of feature, and the variance of the noise.
        self.prior, self.noise = self._likeliest(design, targets)
        prior = np.array([self.prior[str(one[0])] for one in self._places])
        # The posterior is N(mean, (root rootᵀ)⁻¹).
        self._root = np.linalg.cholesky(design.T @ design / self.noise + np.diag(1 / prior))
        half = np.linalg.solve(self._root, design.T @ targets / self.noise)
        self._mean = np.linalg.solve(self._root.T, half)

    def expected(self, rows: Sequence[Features]) -> np.ndarray:
        """The expected score of each row."""
        return self._design(rows) @ self._mean

    def drawn(self, rows: Sequence[Features], rng: Random) -> np.ndarray:
        """The score of each row under one draw of all coefficients from the posterior.

        A choice that no score has shown may matter as much as any may: few choices matter much.
        """
        normal = np.array([rng.gauss(0, 1) for _ in self._places])
        scores = self._design(rows) @ (self._mean + np.linalg.solve(self._root.T, normal))
        new = dict.fromkeys(one for row in rows for one in row if one not in self._places)
        unseen = {one: rng.gauss(0, math.sqrt(UNSEEN[str(one[0])])) for one in new}
        return scores + [sum(x * unseen[f] for f, x in row.items() if f in unseen) for row in rows]

    def _likeliest(self, design: np.ndarray, targets: np.ndarray) -> tuple[dict[str, float], float]:
        """The prior variances and the noise of the highest evidence."""
        judges = np.linspace(0, len(targets) - 1, min(len(targets), JUDGES)).astype(int)
        design, targets = design[judges], targets[judges]
        # The scores' covariance is a sum over kinds of feature: what each adds at a variance of 1.
        unit = {
            name: (columns := design[:, [one[0] == name for one in self._places]]) @ columns.T
            for name in _prior(1.0, 1.0)
        }
        best, likeliest = -math.inf, (_prior(KINDS[0], CHOICES[0]), NOISES[0])
        for kind, choice, noise in product(KINDS, CHOICES, NOISES):
            prior = _prior(kind, choice)
            covariance = noise * np.eye(len(targets))
            covariance += sum(variance * unit[name] for name, variance in prior.items())
            root = np.linalg.cholesky(covariance)
            whitened = np.linalg.solve(root, targets)
            evidence = -0.5 * whitened @ whitened - np.log(np.diag(root)).sum()
            evidence = float(_comparable(evidence))
            if evidence > best:
                best, likeliest = evidence, (prior, noise)
        return likeliest

    def _design(self, rows: Sequence[Features]) -> np.ndarray:
        """The rows as a matrix (rows, features), without features that no scored row has."""
        matrix = np.zeros((len(rows), len(self._places)))
        for index, row in enumerate(rows):
            for feature, number in row.items():
                if feature in self._places:
                    matrix[index, self._places[feature]] = number
        return matrix


def _prior(kind: float, choice: float) -> dict[str, float]:
    """The prior variances of the coefficients by kind of feature."""
    return {"mean": MEAN, "kind": kind, "choice": choice, "weight": choice, "pair": PAIR * choice}


#: The widest of the priors, for features that no score has shown.
UNSEEN = _prior(max(KINDS), max(CHOICES))


def _comparable(scores: np.ndarray) -> np.ndarray:
    """The scores without their last digits, which differ from processor to processor."""
    return np.round(scores, 9)
