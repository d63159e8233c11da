"""Ask-and-tell algorithms, one per stage, and the table of their factories."""

from .base import Algorithm, Factory, Scored, rank
from .evolution import TermEvolution, WeightEvolution
from .stages import Stage, TermStage, WeightStage
from .table import ALGORITHMS, check_algorithm_name, make_algorithm

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Factory",
    "Scored",
    "Stage",
    "TermEvolution",
    "TermStage",
    "WeightEvolution",
    "WeightStage",
    "check_algorithm_name",
    "make_algorithm",
    "rank",
]
