"""The synthetic set is reproducible and whole, and its boxes are where its shapes are."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detkds.data import class_names, make_shapes, read_annotations, read_split
from detkds.data.synthetic import MAX_HIDDEN, MAX_OBJECTS, draw_image
from detkds.settings import Split
from detkds.space import WrongUse

SMALL = {"train": 12, "val": 4, "test": 3, "size": 64}


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "made"
    make_shapes(folder, **SMALL)
    return folder


def test_the_set_is_whole_and_in_coco_format(made: Path) -> None:
    files = make_shapes(made, **SMALL)
    seen: set[str] = set()
    for path, images in [(files.train, 12), (files.val, 4), (files.test, 3)]:
        document = read_split(Split(annotations=str(path), images=str(files.images)))
        assert class_names(document) == ("circle", "square", "triangle", "star")
        names = {image["file_name"] for image in document["images"]}
        assert len(names) == images
        assert not names & seen
        seen |= names
        per_image = [
            sum(a["image_id"] == image["id"] for a in document["annotations"])
            for image in document["images"]
        ]
        assert min(per_image) >= 1
        assert max(per_image) <= MAX_OBJECTS
    for name in seen:
        image = cv2.imread(str(files.images / name))
        assert image is not None
        assert image.shape == (64, 64, 3)
    assert {path.name for path in files.images.iterdir()} == seen


def test_no_image_is_there_twice(made: Path) -> None:
    """A validation image among the training images would be a leak."""
    images = digests(made / "images")
    assert len(set(images.values())) == len(images) == 19


def test_boxes_lie_in_the_image_and_areas_in_the_boxes(made: Path) -> None:
    for annotation in read_annotations(made / "train.json")["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= 64
        assert 0 <= y < y + height <= 64
        # a star fills the least of its box, a square that stands straight all of it
        assert 0.2 * width * height < annotation["area"] <= width * height


def test_a_box_is_tight_around_its_shape() -> None:
    for seed in range(20):
        _, shapes = draw_image(64, np.random.default_rng(seed))
        for shape in shapes:
            x, y, width, height = shape.box
            assert shape.mask[y : y + height, x : x + width].sum() == shape.mask.sum()
            assert shape.mask[[y, y + height - 1], :].any(axis=1).all()
            assert shape.mask[:, [x, x + width - 1]].any(axis=0).all()


def test_many_small_shapes(tmp_path: Path) -> None:
    small: dict[str, Any] = {"objects": 20, "diameters": (0.06, 0.2)}
    files = make_shapes(tmp_path, train=6, val=1, test=1, size=128, **small)
    document = read_annotations(files.train)
    assert len(document["annotations"]) > 6 * MAX_OBJECTS
    sides = [max(annotation["bbox"][2:]) for annotation in document["annotations"]]
    assert max(sides) <= math.ceil(0.2 * 128) + 2
    before = times(tmp_path)
    make_shapes(tmp_path, train=6, val=1, test=1, size=128, **small)
    assert times(tmp_path) == before
    few = make_shapes(tmp_path, train=6, val=1, test=1, size=128)
    assert len(read_annotations(few.train)["annotations"]) <= 6 * MAX_OBJECTS


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"objects": 0}, "objects=0"), ({"diameters": (0.5, 0.2)}, "diameters=0.5,0.2")],
)
def test_impossible_shapes_are_refused(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongUse, match=message):
        make_shapes(tmp_path / "shapes", **{**SMALL, **parameters})
    assert not (tmp_path / "shapes").exists()


def test_no_shape_is_hidden_by_more_than_half() -> None:
    for seed in range(100):
        _, shapes = draw_image(64, np.random.default_rng(seed))
        for i, shape in enumerate(shapes):
            in_front = sum((other.mask for other in shapes[i + 1 :]), np.zeros((64, 64), int)) > 0
            assert (shape.mask & in_front).sum() <= MAX_HIDDEN * shape.mask.sum()


def test_shapes_differ_from_the_ground_where_their_masks_say() -> None:
    """The mean colour within a shape is not that of the ring around it."""
    differences = []
    for seed in range(40):
        image, shapes = draw_image(128, np.random.default_rng(seed))
        front = shapes[-1].mask.astype(np.uint8)
        ring = cv2.dilate(front, np.ones((9, 9), np.uint8)) - cv2.dilate(
            front, np.ones((3, 3), np.uint8)
        )
        inside = image[front > 0].mean(axis=0)
        outside = image[ring > 0].mean(axis=0)
        differences.append(np.linalg.norm(inside - outside))
    assert np.median(differences) > 20
    assert np.mean(np.array(differences) > 5) > 0.9


def test_sizes_reach_from_a_sixth_to_half_of_the_image() -> None:
    """Sizes are of diameters: a box is a little smaller, and most log-uniform sizes are small."""
    sides = np.array(
        [
            max(shape.box[2:])
            for seed in range(200)
            for shape in draw_image(128, np.random.default_rng(seed))[1]
        ]
    )
    assert 128 / 6 * 0.7 < sides.min() < 128 / 6
    assert 128 / 2 * 0.9 < sides.max() <= 128 / 2 + 2
    assert np.mean(sides < 128 / 4) > 0.4
    assert np.mean(sides > 128 / 3) > 0.2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    made: Path, tmp_path: Path
) -> None:
    make_shapes(tmp_path / "again", **SMALL)
    assert digests(tmp_path / "again") == digests(made)
    make_shapes(tmp_path / "other", **SMALL, seed=1)
    same = set(digests(tmp_path / "other").values()) & set(digests(made).values())
    assert not same


def test_a_larger_set_starts_with_the_smaller_one(made: Path, tmp_path: Path) -> None:
    larger = make_shapes(tmp_path, **{**SMALL, "train": 14})
    for path in (made / "images").iterdir():
        assert (larger.images / path.name).read_bytes() == path.read_bytes()


def test_a_made_set_is_left_as_it_is(tmp_path: Path) -> None:
    make_shapes(tmp_path, **SMALL)
    before = times(tmp_path)
    make_shapes(tmp_path, **SMALL)
    assert times(tmp_path) == before


@pytest.mark.parametrize("lost", ["shapes.json", "val.json", "images/train_00003.png"])
def test_a_half_made_set_is_made_anew(made: Path, tmp_path: Path, lost: str) -> None:
    make_shapes(tmp_path, **SMALL)
    (tmp_path / lost).unlink()
    (tmp_path / "images" / "train_00001.png").write_bytes(b"cut off")
    make_shapes(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(made)


def test_other_parameters_replace_the_set(made: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path, **{**SMALL, "train": 20, "seed": 5})
    make_shapes(tmp_path, **SMALL)
    assert digests(tmp_path) == digests(made)


def test_files_of_another_set_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text(json.dumps({"info": {"description": "mine"}}))
    with pytest.raises(WrongUse, match=r"val\.json: it belongs to another set"):
        make_shapes(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["val.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(WrongUse, match=r"file: can't make this folder"):
        make_shapes(file, **SMALL)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train": 0}, "train=0: a split holds at least 1 image"),
        ({"test": -1}, "test=-1: a split holds at least 1 image"),
        ({"size": 16}, "size=16: "),
        ({"seed": -1}, "seed=-1: "),
    ],
)
def test_wrong_parameters_are_named(wrong: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as caught:
        make_shapes(tmp_path / "none", **{**SMALL, **wrong})
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "none").exists()


def cpu_seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def test_making_an_image_costs_a_few_times_what_writing_it_costs(tmp_path: Path) -> None:
    """A thousand images take seconds. The same processor, writing the same files, is the clock:

    about 10 times as long on two kinds of it; the best of three, for others work on it too.
    """
    made, written = [], []
    for number in range(3):
        folder = tmp_path / str(number)
        made.append(cpu_seconds(lambda: make_shapes(folder, train=60, val=20, test=20)))  # noqa: B023
        images = {str(path): cv2.imread(str(path)) for path in (folder / "images").iterdir()}
        assert len(images) == 100
        written.append(cpu_seconds(lambda: [cv2.imwrite(*image) for image in images.items()]))  # noqa: B023
    assert min(made) < 40 * min(written)
