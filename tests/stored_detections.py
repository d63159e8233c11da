"""What a search's detectors find, as a search leaves it in its work folder, and the images."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from detkds.search.record import DETECTIONS, detections_file
from detkds.workers.error_kinds import KINDS
from PIL import Image

SIZE = (64, 48)


def _detector(ap: float, threshold: float) -> dict[str, Any]:
    falling = np.linspace(1, 0, 101).round(4).tolist()
    return {
        "ap": ap,
        "precision": {"0.5": falling, "0.75": [ap / 2 * one for one in falling]},
        "class_aps": [ap, None],
        "threshold": threshold,
        "right": 3,
        "errors": {kind: {"gain": 0.01 * n, "count": n} for n, kind in enumerate(KINDS)},
    }


TRUTH = [[4.0, 4.0, 20.0, 20.0, 0, False], [30.0, 8.0, 16.0, 30.0, 0, False]]
WRONG = [4.0, 4.0, 20.0, 9.0]
FOUND: dict[str, Any] = {
    "schema": DETECTIONS,
    "trainings": {"alone": "none", "distilled": "found"},
    "asked": 2,
    "looked_at": 500,
    "of": 900,
    "names": {"alone": "none", "distilled": "found"},
    "seed": 4,
    "images": "images",
    "classes": ["cell", "platelet"],
    "objects": [7, 0],
    "detectors": {
        "alone": _detector(0.31, 0.4),
        "distilled": _detector(0.35, 0.45),
        "teacher": _detector(0.4, 0.5),
    },
    "pictures": [
        {
            "file": f"{number}.jpg",
            "width": SIZE[0],
            "height": SIZE[1],
            "truth": [*TRUTH, [0.0, 0.0, 9.0, 9.0, 1, True]],
            "found": {
                "alone": {"boxes": [[*WRONG, 0, 0.6, "localisation"]], "missed": [0, 1]},
                "distilled": {"boxes": [[*TRUTH[0][:4], 0, 0.9, "right"]], "missed": [1]},
                "teacher": {"boxes": [], "missed": [0, 1]},
            },
        }
        for number in range(2)
    ],
    "maps": {
        "compared": "channels",
        "levels": {"alone": {"8": 1.9, "16": 1.8}, "distilled": {"8": 0.4, "16": 0.5}},
        "pictures": [
            {"alone": [[2.0, 1.0]] * 2, "distilled": [[0.5, 0.0]] * 2} for _ in range(2)
        ],
    },
}  # fmt: skip


def write_detections(folder: Path, name: str = "cells", **changed: Any) -> None:
    """Write the file and its images, which are smooth: grey at one corner, red at another."""
    found = {**copy.deepcopy(FOUND), **changed}
    detections_file(folder, name).write_text(json.dumps(found), "utf-8")
    (folder / "images").mkdir(exist_ok=True)
    for one in FOUND["pictures"]:
        rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
        pixels = np.stack([columns * 3, rows * 2, rows * 2], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / one["file"])
