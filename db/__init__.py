"""What is remembered: searches, trials and trainings, in SQLite or PostgreSQL."""

from .rows import SearchRow, TrainingRow, TrialRow
from .store import Store

__all__ = ["SearchRow", "Store", "TrainingRow", "TrialRow"]
