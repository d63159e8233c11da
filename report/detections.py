"""What the detectors find in the test images: curves, errors by kind, classes, pictures.

Made of the file that a search leaves beside its distiller, and of the images where they lie now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import FOUND
from ..workers.error_kinds import KINDS, RIGHT
from .charts import Chart, Line
from .facts import ALONE, Facts, points
from .pictures import heat_picture, thumbnail

#: What a reader takes each kind for.
_MEANING = {
    "classification": "on an object, of another class",
    "localisation": "of the right class, beside its object",
    "both": "beside an object, of another class",
    "duplicate": "on an object that a better box has",
    "background": "on no object",
    "missed": "an object that no box is about",
}


@dataclass(frozen=True)
class Box:
    """A box in pixels of the image's file, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    style: str
    text: str


@dataclass(frozen=True)
class Panel:
    """One picture: the image with boxes, or if ``heat`` is given, a map in its place."""

    title: str
    caption: str
    boxes: tuple[Box, ...] = ()
    heat: str = ""


@dataclass(frozen=True)
class Picture:
    """An image, seen by every detector. ``photo``: a data URI, or None if the file is missing."""

    name: str
    width: int
    height: int
    photo: str | None
    panels: list[Panel]


@dataclass(frozen=True)
class Detections:
    """The parts of the section. ``missing``: the names of the pictures whose files are missing."""

    images: str
    seed: int
    folder: Path
    titles: list[str]
    thresholds: str
    curves: list[Chart]
    errors: list[tuple[str, str, list[tuple[str, float, int]]]]
    class_columns: list[str]
    classes: list[list[str]]
    pictures: list[Picture]
    missing: list[str]
    students: list[str]
    levels: list[list[str]]
    compared: str
    without_maps: str
    hottest: str


def detections(facts: Facts) -> Detections | None:
    """None for a search that has left no such file, or one of trainings that are not its own."""
    found = facts.detections
    own = {Path(row.checkpoint).parent.name for row in facts.trainings if row.checkpoint}
    if found is None or not own.issuperset(found["trainings"].values()):
        return None
    detectors, maps = found["detectors"], found["maps"]
    titles = {role: _title(role, found["names"]) for role in detectors}
    folder = found["folder"] / found["images"]
    distances = [p for one in maps.get("pictures", ()) for rows in one.values() for p in rows]
    hottest = max((max(row) for row in distances), default=0.0)
    pictures = [
        _picture(found, number, folder, titles, hottest) for number in range(len(found["pictures"]))
    ]
    return Detections(
        images=_count(found["looked_at"], "test image")
        + (f" of {found['of']}" if found["of"] > found["looked_at"] else ""),
        seed=found["seed"],
        folder=folder,
        titles=list(titles.values()),
        thresholds=", ".join(f"{titles[r]} {d['threshold']:.2f}" for r, d in detectors.items()),
        curves=[_curve(iou, detectors, titles) for iou in ("0.5", "0.75")],
        errors=_errors(detectors),
        class_columns=["class", "objects", *titles.values(), *(["gained"] if _both(found) else [])],
        classes=_classes(found),
        pictures=pictures,
        missing=[one.name for one in pictures if one.photo is None],
        students=[title for role, title in titles.items() if role in maps.get("levels", ())],
        levels=_levels(maps),
        compared=maps.get("compared", ""),
        without_maps=maps.get("none", ""),
        hottest=f"{hottest:.2f}",
    )


def _both(found: dict[str, Any]) -> bool:
    return {"alone", "distilled"} <= found["detectors"].keys()


def _title(role: str, names: dict[str, str]) -> str:
    if role == "distilled":
        return "student distilled" if names[role] == FOUND else f"student distilled ({names[role]})"
    return ALONE if role == "alone" else role


def _curve(iou: str, detectors: dict[str, Any], titles: dict[str, str]) -> Chart:
    """Precision over recall, to where the precision falls to 0."""
    lines, legend = [], []
    for role, one in detectors.items():
        values = one["precision"][iou]
        along = [(place / 100, value) for place, value in enumerate(values) if value > 0]
        if along:
            lines.append(Line(along, role))
        legend.append((role, titles[role]))
    title = f"Precision and recall at an IoU of {iou}"
    return Chart(title, "recall", "precision", (), lines, legend, floor=0.0, whole_x=False)


def _errors(detectors: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, float, int]]]]:
    """A kind, what it means, and of each detector the gain as text and share, and the count."""
    rows = []
    for kind in KINDS:
        own = [one["errors"][kind] for one in detectors.values()]
        cells = [(points(one["gain"]), one["gain"], one["count"]) for one in own]
        rows.append((kind, _MEANING[kind], cells))
    return rows


def _classes(found: dict[str, Any]) -> list[list[str]]:
    """Each class: its name, its objects, its AP by detector, and what distillation gains."""
    rows = []
    detectors = found["detectors"]
    for label, (name, objects) in enumerate(zip(found["classes"], found["objects"], strict=True)):
        aps = {role: one["class_aps"][label] for role, one in detectors.items()}
        row = [name, str(objects), *(points(ap) for ap in aps.values())]
        if _both(found):
            known = None not in (aps["alone"], aps["distilled"])
            row.append(points(aps["distilled"] - aps["alone"], signed=True) if known else "–")
        rows.append(row)
    return rows


def _levels(maps: dict[str, Any]) -> list[list[str]]:
    """Each stride that both have, and every student's mean distance there."""
    by_role = list(maps.get("levels", {}).values())
    strides = by_role[0] if by_role else ()
    return [[stride, *(f"{one[stride]:.2f}" for one in by_role)] for stride in strides]


def _picture(
    found: dict[str, Any], number: int, folder: Path, titles: dict[str, str], hottest: float
) -> Picture:
    """The panels of an image: its objects, what each detector finds, and the students' maps."""
    one, classes = found["pictures"][number], found["classes"]
    truth = one["truth"]
    objects = [entry for entry in truth if not entry[5]]
    boxes = tuple(
        _box(entry, "crowd" if entry[5] else "truth", _said(entry, classes)) for entry in truth
    )
    panels = [Panel("ground truth", _count(len(objects), "object"), boxes)]
    for role, title in titles.items():
        panels.append(_found(title, one["found"][role], truth, classes))
    maps = found["maps"].get("pictures")
    for role, rows in (maps[number] if maps else {}).items():
        mean = sum(map(sum, rows)) / sum(map(len, rows))
        heat = heat_picture(rows, hottest)
        panels.append(
            Panel(f"maps of the {titles[role]}", f"{mean:.2f} from the teacher's", heat=heat)
        )
    photo = thumbnail(folder / one["file"])
    return Picture(one["file"], one["width"], one["height"], photo, panels)


def _found(title: str, own: dict[str, Any], truth: list[list], classes: list[str]) -> Panel:
    """A detector's panel: what it finds, what it is wrong about, and what it misses."""
    right = wrong = 0
    boxes = []
    for place in own["missed"]:
        boxes.append(_box(truth[place], "missed", f"not found: {_said(truth[place], classes)}"))
    for *box, label, score, kind in own["boxes"]:
        right, wrong = right + (kind == RIGHT), wrong + (kind in KINDS)
        style = "right" if kind == RIGHT else "wrong"
        boxes.append(_box(box, style, f"{classes[label]}, score {score:.2f}: {kind}"))
    boxes_said = _count(wrong, "wrong box", "wrong boxes")
    caption = f"{right} found, {len(own['missed'])} not, {boxes_said}"
    return Panel(title, caption, tuple(boxes))


def _said(entry: list, classes: list[str]) -> str:
    return f"a crowd: {classes[entry[4]]}" if entry[5] else classes[entry[4]]


def _box(entry: list, style: str, text: str) -> Box:
    x, y, width, height = entry[:4]
    return Box(x, y, width, height, style, text)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
