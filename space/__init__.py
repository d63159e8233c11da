"""What a distiller is: options, terms, notation, JSON file, search space. Pure Python."""

from .distiller import NONE, Distiller, Term
from .errors import SearchFailed, WrongUse, nearest
from .files import SCHEMA, json_schema
from .options import (
    CONSTANT,
    EXTENDED,
    IDENTITY,
    KNOWLEDGE,
    PLAIN,
    POSITIONS,
    SHARE,
    STEP,
    STEPWISE,
)
from .search_space import SearchSpace, WeightIn
from .trials import PLAIN_WEIGHT, WEIGHTS_STAGE, Candidate, Outcome, Progress, Status

__all__ = [
    "CONSTANT",
    "EXTENDED",
    "IDENTITY",
    "KNOWLEDGE",
    "NONE",
    "PLAIN",
    "PLAIN_WEIGHT",
    "POSITIONS",
    "SCHEMA",
    "SHARE",
    "STEP",
    "STEPWISE",
    "WEIGHTS_STAGE",
    "Candidate",
    "Distiller",
    "Outcome",
    "Progress",
    "SearchFailed",
    "SearchSpace",
    "Status",
    "Term",
    "WeightIn",
    "WrongUse",
    "json_schema",
    "nearest",
]
