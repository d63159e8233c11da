"""The algorithms by name. To add an algorithm, add its factory here."""

from __future__ import annotations

from random import Random

from ...settings import Search
from ...space import WrongUse, nearest
from .base import Algorithm, Factory
from .evolution import algorithm1
from .mcts import mcts
from .optuna_samplers import SAMPLERS, optuna_sampler
from .random_search import random_search
from .regularized_evolution import regularized_evolution
from .stages import Stage
from .thompson import thompson

#: What ``search.algorithm`` may name.
ALGORITHMS: dict[str, Factory] = {
    "algorithm1": algorithm1,
    "random": random_search,
    "mcts": mcts,
    "regularized_evolution": regularized_evolution,
    "thompson": thompson,
    **{f"optuna:{name}": optuna_sampler(name) for name in SAMPLERS},
}


def check_algorithm_name(name: str) -> None:
    """Raise :class:`WrongUse` for a name that is not in :data:`ALGORITHMS`."""
    if name not in ALGORITHMS:
        raise WrongUse(
            f"unknown algorithm '{name}': {nearest(name, ALGORITHMS)}", "search.algorithm"
        )


def make_algorithm(stage: Stage, settings: Search, rng: Random) -> Algorithm:
    """The algorithm of ``search.algorithm`` for one stage.

    Raises :class:`WrongUse` for an unknown name.
    """
    check_algorithm_name(settings.algorithm)
    return ALGORITHMS[settings.algorithm](stage, settings, rng)
