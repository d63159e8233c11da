"""What mmengine's log in a training's folder says of its course: losses, validations, the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: COCO's box AP, as mmdet's metric calls it.
AP = "coco/bbox_mAP"


def losses(folder: Path) -> list[tuple[float, float]]:
    """(iteration, loss) of a training, which may have been killed and resumed."""
    found = {step: float(entry["loss"]) for step, entry in _entries(folder, "loss")}
    return sorted((step, loss) for step, loss in found.items() if loss == loss)


def validations(folder: Path) -> list[tuple[int, float]]:
    """(epoch, AP in [0, 1]) of a training's validations, first to last."""
    found = {round(step): float(entry[AP]) for step, entry in _entries(folder, AP)}
    return sorted(found.items())


def best_checkpoint(folder: Path) -> Path | None:
    """The student of the best epoch, which mmengine's hook keeps with ``save_best``."""
    return next(iter(sorted(folder.glob("best_*.pth"))), None)


def _entries(folder: Path, key: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """The entries of all logs that have a key, with their steps; cut lines are left out."""
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in file.read_text("utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                step, _ = float(entry["step"]), float(entry[key])
            except (ValueError, KeyError, TypeError):
                continue
            yield step, entry
