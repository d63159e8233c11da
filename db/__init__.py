"""What is remembered: searches, trials, trainings and adaptation costs, in SQLite or PostgreSQL."""

from .rows import CostRow, SearchRow, TrainingRow, TrialRow, ranked
from .store import Store

__all__ = ["CostRow", "SearchRow", "Store", "TrainingRow", "TrialRow", "ranked"]
