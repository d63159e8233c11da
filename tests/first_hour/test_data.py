"""What is wrong with images and boxes is told, with the file's name, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detkds.data.inspection import MEMORY, Opened, image_size
from detkds.settings import Split
from detkds.space import WrongUse
from PIL import Image

Document = dict[str, Any]


def every_box(document: Document, **changes: Any) -> None:
    for one in document["annotations"]:
        one.update(changes)


#: What is wrong: the split, what is done to its annotations, and what is said after its name.
SPOILT: dict[str, tuple[str, Callable[[Document], None], str]] = {
    "every box outside": (
        "train",
        lambda d: every_box(d, bbox=[640, 10, 8, 8]),
        "boxes lie outside of their images (first: annotation 1, bbox [640, 10, 8, 8], in 64x64); "
        "a bbox is [x, y, width, height] in pixels: there is nothing to learn",
    ),
    "only crowds": (
        "train",
        lambda d: every_box(d, iscrowd=1),
        "boxes are crowds (iscrowd): there is nothing to learn",
    ),
    "no box": ("train", lambda d: d["annotations"].clear(), "no image has a box: there is nothing"),
    "test without boxes": (
        "test",
        lambda d: d["annotations"].clear(),
        "no image has a box: nothing can be scored",
    ),
    "test of crowds": ("test", lambda d: every_box(d, iscrowd=1), ": nothing can be scored"),
}


def rewrite(file: Path, change: Callable[[Document], None]) -> Document:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return document


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("use", ["search", "train"])
def test_boxes_that_nothing_can_be_learned_from(refused, custom, shapes, name, use):
    split, change, says = SPOILT[name]
    file = getattr(shapes, split)
    rewrite(file, change)
    more = ["--distiller", "none"] if use == "train" else []
    said = refused(use, *more, *custom)
    assert said.startswith(f"{file}: ")
    assert says in said


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("content", "says"), [(b"", "it is empty"), (b"GIF", "cannot identify")])
def test_an_image_that_cannot_be_decoded(refused, custom, shapes, split, content, says):
    document = json.loads(getattr(shapes, split).read_text())
    spoilt = shapes.images / document["images"][-1]["file_name"]
    spoilt.write_bytes(content)
    assert refused("search", *custom).startswith(f"{spoilt}: can't decode the image: {says}")


def test_an_image_that_was_cut_off(refused, custom, shapes):
    document = json.loads(shapes.train.read_text())
    spoilt = shapes.images / document["images"][3]["file_name"]
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2])
    assert refused("search", *custom).startswith(f"{spoilt}: can't decode the image: ")


def test_what_is_odd_is_noted_and_does_no_harm(command, custom, shapes):
    def odd(document: Document) -> None:
        document["annotations"][0]["bbox"] = [100, 100, 5, 5]
        document["images"][2]["width"] = 65
        first = document["images"][1]["id"]
        own = [one for one in document["annotations"] if one["image_id"] != first]
        document["annotations"] = own

    document = rewrite(shapes.train, odd)
    boxes = len(document["annotations"])
    code, said = command("search", *custom, "--dry-run")
    assert code == 0, said
    file = shapes.images / document["images"][2]["file_name"]
    for note in (
        f"1 of {boxes} boxes lie outside of their images (first: annotation 1)",
        "1 of 12 images have no box",
        f"1 of 12 images have another size than it says (first: {file} has 64x64, not 65x64); if "
        "its boxes are of that size, they are misplaced",
    ):
        assert f"# note  {shapes.train}: {note}\n" in said


def test_an_image_is_opened_once(shapes, tmp_path, monkeypatch):
    split = Split(annotations=str(shapes.train), images=str(shapes.images))
    document = json.loads(shapes.train.read_text())
    seen: list[str] = []

    def counted(path: str) -> tuple[int, int]:
        seen.append(path)
        return image_size(path)

    monkeypatch.setattr("detkds.data.inspection.image_size", counted)
    opened = Opened.read(tmp_path / "run")
    opened.look(split, document, training=True)
    opened.write(tmp_path / "run")
    assert len(seen) == 12
    again = Opened.read(tmp_path / "run")
    again.look(split, document, training=True)
    assert len(seen) == 12
    changed = shapes.images / document["images"][0]["file_name"]
    changed.write_bytes(b"")
    with pytest.raises(WrongUse, match=r"it is empty"):
        Opened.read(tmp_path / "run").look(split, document, training=True)
    assert seen[12:] == [str(changed)]
    (tmp_path / "run" / MEMORY).write_text("[broken")
    assert Opened.read(tmp_path / "run").known == {}


def test_a_start_opens_a_part_of_many_images_and_a_check_all(shapes, monkeypatch):
    monkeypatch.setattr("detkds.data.inspection.AT_START", 5)
    split = Split(annotations=str(shapes.train), images=str(shapes.images))
    document = json.loads(shapes.train.read_text())
    for whole, count in ((False, 5), (True, 12)):
        opened = Opened(whole)
        opened.look(split, document, training=True)
        assert len(opened.known) == count


def test_a_turned_photo_has_the_size_that_detectors_see(tmp_path):
    photo = Image.new("RGB", (40, 20))
    turned = photo.getexif()
    turned[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=turned)
    assert image_size(str(tmp_path / "turned.jpg")) == (20, 40)
