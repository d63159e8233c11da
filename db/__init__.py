"""What is remembered: searches, trials and trainings, in SQLite or PostgreSQL."""

from .engine import hide_password
from .rows import CostRow, SearchRow, TrainingRow, TrialRow
from .store import Store

__all__ = ["CostRow", "SearchRow", "Store", "TrainingRow", "TrialRow", "hide_password"]
