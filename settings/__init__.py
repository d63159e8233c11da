"""The sections of a config, validated before anything starts. No torch."""

from .base import Settings
from .data import Data, Split, Synthetic
from .load import config_name, load_config
from .models import Model, Schedule, TrialSchedule
from .resources import Resources
from .search import (
    BEST_PRESET,
    FOUND,
    PRESETS,
    PROGRESSIVE,
    Confirm,
    Final,
    Proxy,
    Search,
    SearchConfig,
    Teacher,
)
from .task import Task

__all__ = [
    "BEST_PRESET",
    "FOUND",
    "PRESETS",
    "PROGRESSIVE",
    "Confirm",
    "Data",
    "Final",
    "Model",
    "Proxy",
    "Resources",
    "Schedule",
    "Search",
    "SearchConfig",
    "Settings",
    "Split",
    "Synthetic",
    "Task",
    "Teacher",
    "TrialSchedule",
    "config_name",
    "load_config",
]
