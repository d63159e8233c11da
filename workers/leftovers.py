"""What work leaves of its way when its process is killed, by name; ``detkds clean`` deletes it."""

from __future__ import annotations

import os

#: How the names of temporary folders begin; the process that made one follows.
TEMPORARY = "detkds-"
#: The end of a note's name that stands for a student whose file was deleted, but which was trained.
FREED = ".freed"
#: What a training that is done may have left in its folder when it was killed on its last steps.
LEFTOVERS = ("resume.pth", "*.damaged", ".*.tmp", "worker.json", "ray_train")
#: What of a training's folder no other program writes: its lock, its outcome, how far it is.
TRACES = (LOCK, OUTCOME, PROGRESS) = ("training.lock", "outcome.json", "progress.json")
#: How the name of the folder begins in which a search's trials say how far they are; the search's
#: name follows.
RUNNING = ".running-"
#: How the name of the folder ends in which a search's trials have their scalars.
SHOWN = ".trials"


def temporary(what: str) -> str:
    """The beginning of a temporary folder's name, which says what it is for and whose it is."""
    return f"{TEMPORARY}{what}-{os.getpid()}-"
