"""Early stopping: which early score a trial must have to be trained to its end."""

from __future__ import annotations

import statistics
from dataclasses import replace

from ...space import Outcome, Status
from .base import Algorithm

#: Trials are stopped only after so many that were trained to the end have an early score.
LEAST = 10
#: The share of trials that an algorithm that learns from every score trains to the end: 1 / eta,
#: with the eta of 3 that Hyperband (Li et al., JMLR 2018) and ASHA (Li et al., MLSys 2020) have.
KEPT = 1 / 3


class EarlyStop:
    """What a search knows of early scores. Equal outcomes in equal order give equal bars.

    DetKDS ends a validation early as well ("once the student model performs well enough to
    determine the quality", Section 3.2) and gives no rule. A bound on AP from a part of the
    validation images is no use: until nearly all are seen, the rest may be perfect.
    """

    def __init__(self) -> None:
        #: The early scores of all trials, those that were stopped included.
        self._early: list[float] = []
        #: The early score and the score of each trial that was trained to its end.
        self._pairs: list[tuple[float, float]] = []

    def bar(self, stage: Algorithm) -> float | None:
        """The early score that the stage's next trial must have; None: no early score is too low.

        Below the early score from which the largest gain so far leads to the algorithm's own bar, a
        trial would have to gain more than any trial has gained, to matter: experience, not a
        bound. An algorithm that learns from every score has no bar; the best third of early scores
        is trained to the end, as at a rung of ASHA. The bar of the first trials is 0, which stops
        none: they show how early scores and scores go together.
        """
        if len(self._pairs) < LEAST:
            return 0.0
        if stage.learns:
            ranked = sorted(self._early, reverse=True)
            bar = ranked[max(0, round(KEPT * len(ranked)) - 1)]
        else:
            bar = (stage.bar or 0.0) - max(score - early for early, score in self._pairs)
        return bar if bar > 0 else None

    def told(self, outcome: Outcome) -> Outcome:
        """Learn from an outcome; returns what the algorithm is told.

        The early score of a trial that was stopped becomes the score that it would have had, by
        the least-squares line through the trials that were trained to the end.
        """
        early = outcome.early_score
        if early is None:
            return outcome
        self._early.append(early)
        if outcome.score is not None:
            self._pairs.append((early, outcome.score))
        if outcome.status is Status.STOPPED:
            return replace(outcome, early_score=self._expected(early))
        return outcome

    def _expected(self, early: float) -> float:
        """A higher early score never makes the expected score lower."""
        if not self._pairs:
            return early
        known, scores = zip(*self._pairs, strict=True)
        mean = statistics.fmean(scores)
        if min(known) == max(known):
            return mean
        slope = max(0.0, statistics.linear_regression(known, scores).slope)
        return max(0.0, mean + slope * (early - statistics.fmean(known)))
