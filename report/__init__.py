"""Pages made from the store: the report of a search, one file that needs nothing else."""

from .facts import Facts
from .options import study_of
from .page import render

__all__ = ["Facts", "render", "study_of"]
