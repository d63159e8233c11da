"""What runs on a worker, run in the test's own process, and a display that remembers its lines."""

from __future__ import annotations

from types import ModuleType

import pytest


class Said:
    """A display that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def training(self, names: list[str], progress: list[tuple[int, int]]) -> None:
        """The lines do not tell how far a training is."""

    def say(self, text: str) -> None:
        self.lines.append(text)


def jobs_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The jobs that a module gives to workers, from now on run here."""
    ran: list[object] = []

    def here(resources: object, job: object) -> object:
        ran.append(job)
        return job()  # type: ignore[operator]

    monkeypatch.setattr(module, "run_job", here)
    return ran
