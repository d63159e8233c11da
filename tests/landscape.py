"""Simulated scores of distillers: an additive landscape with noise, for searches without trials.

``python landscape.py [SIMULATIONS] [ALGORITHM ...]`` prints the true score of what each algorithm
has found, in searches of whole distillers that start from the shipped ones.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from random import Random

from detkds.search.algorithms import ALGORITHMS
from detkds.search.controller import Controller
from detkds.search.plans.start import start_distillers
from detkds.settings import Search
from detkds.space import Distiller, Outcome, SearchSpace, Status, Term

#: The score of the student alone.
ALONE = 0.12
#: Gains saturate: no distiller gains more.
MOST = 0.15


def shared_space() -> SearchSpace:
    """The extended space as a pair has it whose schedules have no milestones."""
    space = SearchSpace.preset("extended")
    space = space.only([name for name, options in space.options.items() if options.default])
    for knowledge in space.knowledge:
        space = space.without(knowledge, ["stepwise"])
    return space


class Landscape:
    """A true score for every distiller of a space, drawn from ``seed``.

    A term gains what its kind of knowledge and its options are worth, as far as its weight is near
    the best one of its kind; too large a weight costs. Pairs of kinds mostly gain less than their
    sum. One distiller in ten is rejected.
    """

    def __init__(self, space: SearchSpace, seed: int, noise: float = 0.01) -> None:
        self.space, self.seed, self.noise = space, seed, noise
        rng = Random(f"landscape {seed}")
        kinds = space.knowledge
        self.worth: dict[tuple, float] = {}
        self.best_weight: dict[str, float] = {}
        for knowledge in kinds:
            self.worth[(knowledge,)] = rng.gauss(-0.01, 0.04)
            for index, slot in enumerate(space.slots(knowledge)[:-1]):
                for choice in slot:
                    self.worth[knowledge, index, choice] = rng.gauss(0, 0.015)
            self.best_weight[knowledge] = rng.uniform(-0.7, 1.0)
        for index, first in enumerate(kinds):
            for second in kinds[index + 1 :]:
                self.worth[first, second] = rng.gauss(-0.01, 0.01)

    def true_score(self, distiller: Distiller) -> float:
        """The score without noise."""
        kinds = [term.knowledge for term in distiller.active]
        pairs = [(a, b) for index, a in enumerate(kinds) for b in kinds[index + 1 :]]
        gain = sum(map(self._gain, distiller.active)) + sum(self.worth[pair] for pair in pairs)
        return max(0.0, ALONE + (MOST * (1 - math.exp(-gain / MOST)) if gain > 0 else gain))

    def _gain(self, term: Term) -> float:
        *options, weight = self.space.encode(term)
        worth = self.worth[(term.knowledge,)]
        worth += sum(self.worth[term.knowledge, i, choice] for i, choice in enumerate(options))
        off = math.log10(weight) - self.best_weight[term.knowledge]
        return worth * math.exp(-2 * off**2) - 0.02 * max(off, 0) ** 2

    def outcome(self, distiller: Distiller) -> Outcome:
        """What a trial says: the same at every call."""
        if distiller.active and int(distiller.key, 16) % 10 == 0:
            return Outcome.rejected("loss is NaN")
        noise = Random(f"{self.seed} {distiller.key}").gauss(0, self.noise)
        return Outcome(Status.COMPLETED, score=max(0.0, self.true_score(distiller) + noise))


def search(algorithm: str, seed: int, counts: tuple[int, ...], **settings) -> list[float]:
    """The true score of the best distiller after each number of scored candidates.

    The search has whole distillers and starts from the shipped ones.
    """
    space = shared_space()
    landscape = Landscape(space, seed)
    start = start_distillers(["none", "presets"], space, None)
    options = Search(algorithm=algorithm, divide=False, trials=max(counts), **settings)
    controller, scored, found = Controller(space, options, seed, start), 0, {}
    while not controller.done:
        candidate = controller.ask()
        outcome = landscape.outcome(candidate.distiller)
        controller.tell(candidate, outcome)
        scored += outcome.completed
        if scored in counts and scored not in found:
            found[scored] = landscape.true_score(controller.best[0].distiller)
    return [found[count] for count in counts]


def main(simulations: int, algorithms: list[str]) -> None:
    counts = (60, 200)
    for name in algorithms:
        started = time.process_time()
        found = [search(name, seed, counts) for seed in range(simulations)]
        columns = list(zip(*found, strict=True))
        medians = ", ".join(f"{statistics.median(column):.4f}" for column in columns)
        quarters = [statistics.quantiles(column, n=4) for column in columns]
        spread = ", ".join(f"{q[0]:.4f} to {q[2]:.4f}" for q in quarters)
        seconds = (time.process_time() - started) / simulations
        print(f"{name:22} {medians}  quartiles {spread}  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["20"])[0]), sys.argv[2:] or list(ALGORITHMS))
