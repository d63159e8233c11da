"""COCO-format files: what is read, what is refused with which message, what is written."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from detkds.data import (
    class_names,
    read_annotations,
    read_split,
    size_class,
    write_annotations,
    write_together,
)
from detkds.settings import Split
from detkds.space import WrongUse
from real_data import REAL_DATA


def document() -> dict:
    return {
        "info": {"description": "two images"},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 9, "file_name": "b.jpg", "width": 64, "height": 48},
        ],
        "annotations": [
            _annotation(1, 7, 3, [1, 2, 30, 20]),
            _annotation(2, 7, 1, [5.5, 6.5, 10.25, 4.0]),
            _annotation(3, 9, 1, [0, 0, 64, 48]),
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
    }


def _annotation(number: int, image: int, category: int, box: list) -> dict:
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box}
    return {**entry, "area": box[2] * box[3], "iscrowd": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instances.json"


def refused(path: Path, content: object) -> str:
    """The one-line refusal of ``content``, without the file's name."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(WrongUse) as caught:
        read_annotations(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_written_document_is_read_back(path: Path) -> None:
    write_annotations(path, document())
    assert read_annotations(path) == document()


def test_class_names_go_by_category_id() -> None:
    assert class_names(document()) == ("cat", "dog")


def test_size_classes_change_at_32_and_96_squared() -> None:
    areas = [1, 32**2 - 0.5, 32**2, 96**2 - 0.5, 96**2, 1e6]
    sizes = ["small", "small", "medium", "medium", "large", "large"]
    assert [size_class(area) for area in areas] == sizes


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(WrongUse, match=rf"^{re.escape(str(path))}: can't read"):
            read_annotations(path)


def test_a_file_that_is_not_text_is_named(path: Path) -> None:
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(WrongUse, match="it is not UTF-8 text"):
        read_annotations(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    text = json.dumps(document())
    for end in range(0, len(text), 7):
        assert refused(path, text[:end]).startswith("not a whole JSON document")


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_lacking_list_is_named(path: Path, name: str) -> None:
    content = document()
    del content[name]
    assert refused(path, content).startswith(f"no list '{name}'")
    assert refused(path, {**content, name: {}}).startswith(f"no list '{name}'")
    assert refused(path, {**content, name: [1]}).startswith(f"the list '{name}' holds")


def test_json_of_another_kind_is_refused(path: Path) -> None:
    assert refused(path, [1, 2]) == "a COCO-format file is a JSON object, not list"


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("annotations", "id"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_ids_and_names_are_there_once(path: Path, kind: str, key: str) -> None:
    content = document()
    content[kind][1][key] = content[kind][0][key]
    assert refused(path, content).startswith(f"the {key} {content[kind][0][key]!r} is there twice")
    del content[kind][1][key]
    assert f"{kind}[1]" in refused(path, content)
    content[kind][1][key] = [1]
    assert f"has no '{key}'" in refused(path, content)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("wrong", [99, "7", None, [7], float("nan")])
def test_annotations_of_unknown_images_and_categories_are_counted(
    path: Path, key: str, wrong: object
) -> None:
    content = document()
    content["annotations"][1][key] = wrong
    content["annotations"][2][key] = wrong
    said = refused(path, content)
    assert said.startswith(f"2 of 3 annotations have a wrong {key} (first: annotation 2, {key} ")


@pytest.mark.parametrize(
    "box",
    [
        None,
        "1 2 3 4",
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, True, 4],
        [float("nan"), 2, 3, 4],
        [1, 2, float("inf"), 4],
        [1, 2, 0, 4],
        [1, 2, 3, -4],
    ],
)
def test_boxes_that_are_no_boxes_are_counted(path: Path, box: object) -> None:
    content = document()
    content["annotations"][0]["bbox"] = box
    content["annotations"][2]["bbox"] = box
    said = refused(path, content)
    assert said.startswith("2 of 3 annotations have a wrong bbox (first: annotation 1, bbox ")
    assert "positive width and height" in said


@pytest.mark.parametrize("area", [None, "9", float("nan"), -1])
def test_areas_that_are_no_areas_are_counted(path: Path, area: object) -> None:
    content = document()
    content["annotations"][1]["area"] = area
    said = refused(path, content)
    assert said.startswith("1 of 3 annotations have a wrong area (first: annotation 2, area ")


def test_empty_annotations_as_in_coco_train2017_pass(path: Path) -> None:
    content = document()
    content["annotations"][0] |= {"bbox": [296.65, 388.33, 1.03, 0.0], "area": 0.0}
    write_annotations(path, content)
    assert read_annotations(path) == content
    content["annotations"][0]["bbox"][3] = -1.0
    assert "wrong bbox" in refused(path, content)


def test_a_split_needs_its_images(path: Path, tmp_path: Path) -> None:
    content = document()
    content["images"].append({"id": 10, "file_name": "c/d.jpg", "width": 1, "height": 1})
    write_annotations(path, content)
    images = tmp_path / "images"
    with pytest.raises(WrongUse, match=rf"^{re.escape(str(images))}: there is no such folder"):
        read_split(Split(annotations=str(path), images=str(images)))
    images.mkdir()
    (images / "a.jpg").touch()
    with pytest.raises(WrongUse, match=r"2 of 3 images are not in .*\(first: b\.jpg\)"):
        read_split(Split(annotations=str(path), images=str(images)))
    (images / "b.jpg").touch()
    with pytest.raises(WrongUse, match=r"1 of 3 images are not in .*\(first: c/d\.jpg\)"):
        read_split(Split(annotations=str(path), images=str(images)))
    (images / "c").mkdir()
    (images / "c" / "d.jpg").touch()
    assert read_split(Split(annotations=str(path), images=str(images))) == content


def test_a_split_needs_what_detectors_and_metrics_read(path: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    for kind, key in [
        ("images", "width"),
        ("images", "height"),
        ("annotations", "area"),
        ("annotations", "iscrowd"),
    ]:
        content = copy.deepcopy(document())
        del content[kind][1][key]
        write_annotations(path, content)
        with pytest.raises(WrongUse, match=rf"{kind}\[1\] \(id \d\) has no '{key}'"):
            read_split(Split(annotations=str(path), images=str(tmp_path)))


def test_a_split_has_images(path: Path, tmp_path: Path) -> None:
    write_annotations(path, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(WrongUse, match="no images"):
        read_split(Split(annotations=str(path), images=str(tmp_path)))


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    old = tmp_path / "train.json"
    write_annotations(old, document())
    with pytest.raises(TypeError):
        write_together({old: {"images": []}, tmp_path / "val.json": {"images": object()}})
    assert read_annotations(old) == document()
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.json"]


@pytest.mark.parametrize(
    ("annotations", "images", "boxes"),
    [
        ("bccd/train.json", "bccd/images", 2804),
        ("tiny_coco/annotations/instances_train2017.json", "tiny_coco/train2017", 470),
        ("tiny_coco/annotations/instances_val2017.json", "tiny_coco/val2017", 382),
    ],
)
def test_real_sets_are_read(annotations: str, images: str, boxes: int) -> None:
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the real images in {REAL_DATA}")
    read = read_split(
        Split(annotations=str(REAL_DATA / annotations), images=str(REAL_DATA / images))
    )
    assert len(read["annotations"]) == boxes
    assert len(class_names(read)) == (80 if "coco" in annotations else 3)
