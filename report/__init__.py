"""Pages made from the store: the report of a search, one file that needs nothing else."""

from .card import model_card
from .facts import Facts
from .options import study_of
from .page import render

__all__ = ["Facts", "model_card", "render", "study_of"]
