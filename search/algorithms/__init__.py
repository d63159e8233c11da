"""How to look, one stage at a time: ask-and-tell algorithms without workers or database."""

from .base import Algorithm
from .evolution import TermEvolution, WeightEvolution

__all__ = ["Algorithm", "TermEvolution", "WeightEvolution"]
