"""Ask-and-tell algorithms, one per stage, and the table of their factories."""

from .base import Algorithm, Factory, Scored, rank
from .early_stop import EarlyStop
from .evolution import TermEvolution, WeightEvolution
from .stages import WHOLE_STAGE, Stage, TermStage, WeightStage, WholeStage
from .start import START_STAGE, Listed
from .table import ALGORITHMS, check_algorithm_name, make_algorithm

__all__ = [
    "ALGORITHMS",
    "START_STAGE",
    "WHOLE_STAGE",
    "Algorithm",
    "EarlyStop",
    "Factory",
    "Listed",
    "Scored",
    "Stage",
    "TermEvolution",
    "TermStage",
    "WeightEvolution",
    "WeightStage",
    "WholeStage",
    "check_algorithm_name",
    "make_algorithm",
    "rank",
]
