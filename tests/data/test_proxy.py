"""Proxy subsets: exact, disjoint, like the whole set, the same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detkds.data import Document, read_annotations, write_annotations
from detkds.data.proxy import (
    check_disjoint,
    class_size_histogram,
    deviation,
    sample_proxy,
    write_proxy,
)
from detkds.settings import Split
from detkds.space import WrongUse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_data import REAL_DATA


def make_document(images: int, classes: int, seed: int = 0, boxes: float = 7) -> Document:
    """A set with rare and common classes, one or two to an image, sizes of all kinds, crowds."""
    generator = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1)
    annotations: list[dict] = []
    for image in range(images):
        present = generator.choice(classes, size=2, p=frequency / frequency.sum())
        number = 0 if generator.random() < 0.05 else generator.geometric(1 / boxes)
        for category in generator.choice(present, size=number):
            side = float(np.exp(generator.normal(3.7, 0.9)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + image,
                    "category_id": 10 * int(category) + 1,
                    "bbox": [1.0, 2.0, side, side],
                    "area": side * side,
                    "iscrowd": int(generator.random() < 0.02),
                }
            )
    return {
        "info": {"description": "made up"},
        "licenses": [{"id": 1}],
        "images": [
            {"id": 100 + i, "file_name": f"{i}.jpg", "width": 640, "height": 480}
            for i in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 10 * i + 1, "name": f"class {i}"} for i in range(classes)],
    }


def random_subset(document: Document, images: int, seed: int) -> Document:
    chosen = np.random.default_rng(seed).permutation(document["images"])[:images].tolist()
    ids = {image["id"] for image in chosen}
    annotations = [a for a in document["annotations"] if a["image_id"] in ids]
    return {**document, "images": chosen, "annotations": annotations}


def share_without_boxes(document: Document) -> float:
    with_boxes = {a["image_id"] for a in document["annotations"] if not a["iscrowd"]}
    return 1 - len(with_boxes) / len(document["images"])


def names(document: Document) -> list[str]:
    return [image["file_name"] for image in document["images"]]


def bccd() -> Document:
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the annotations in {REAL_DATA}")
    return read_annotations(REAL_DATA / "bccd" / "train.json")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    train=st.integers(1, 40),
    val=st.integers(1, 40),
    left=st.integers(0, 40),
    classes=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_subsets_are_exact_disjoint_and_whole(
    train: int, val: int, left: int, classes: int, seed: int
) -> None:
    document = make_document(train + val + left, classes, seed)
    before = json.dumps(document)
    subsets = sample_proxy(document, train, val, seed)
    assert json.dumps(document) == before
    assert [len(subset["images"]) for subset in subsets] == [train, val]
    assert not set(names(subsets[0])) & set(names(subsets[1]))
    for subset in subsets:
        ids = {image["id"] for image in subset["images"]}
        assert subset["images"] == [i for i in document["images"] if i["id"] in ids]
        assert subset["annotations"] == [a for a in document["annotations"] if a["image_id"] in ids]
        for kept in ("info", "licenses", "categories"):
            assert subset[kept] == document[kept]
    assert sample_proxy(document, train, val, seed) == subsets


@pytest.mark.parametrize("make", [bccd, lambda: make_document(200, 5)], ids=["bccd", "made up"])
def test_other_seeds_draw_other_subsets(make: Callable[[], Document]) -> None:
    document = make()
    drawn = [sample_proxy(document, 60, 30, seed) for seed in range(10)]
    assert len({tuple(names(train)) for train, _ in drawn}) == 10
    assert len({tuple(names(val)) for _, val in drawn}) == 10


@pytest.mark.parametrize(
    ("make", "train", "val", "factor"),
    [
        (bccd, 100, 50, 3),
        (bccd, 40, 20, 3),
        pytest.param(lambda: make_document(10_000, 80), 2000, 500, 5, marks=pytest.mark.slow),
        (lambda: make_document(300, 20), 100, 50, 2),
    ],
    ids=["bccd", "bccd small", "80 classes", "few boxes of a class"],
)
def test_subsets_are_nearer_to_the_whole_than_random_ones(
    make: Callable[[], Document], train: int, val: int, factor: float
) -> None:
    document = make()
    whole = class_size_histogram(document)
    for seed in range(3):
        drawn = sample_proxy(document, train, val, seed)
        for subset in drawn:
            images = len(subset["images"])
            random = [
                deviation(class_size_histogram(random_subset(document, images, s)), whole)
                for s in range(5)
            ]
            assert deviation(class_size_histogram(subset), whole) < np.mean(random) / factor


def test_boxes_an_image_and_images_without_boxes_keep_their_share() -> None:
    document = make_document(4000, 20)
    density = class_size_histogram(document).sum() / 4000
    for subset in sample_proxy(document, 1000, 200, 1):
        images = len(subset["images"])
        assert class_size_histogram(subset).sum() / images == pytest.approx(density, rel=0.01)
        assert share_without_boxes(subset) == pytest.approx(
            share_without_boxes(document), abs=1.5 / images
        )


def test_the_spread_of_boxes_over_images_stays() -> None:
    """Swaps must not fill the subsets with average images."""
    document = make_document(4000, 20)

    def spread(subset: Document) -> float:
        images = [a["image_id"] for a in subset["annotations"]]
        counts = np.unique(images, return_counts=True)[1]
        return float(np.std(counts))

    for subset in sample_proxy(document, 1000, 200, 1):
        assert spread(subset) == pytest.approx(spread(document), rel=0.2)


def test_deviation_is_the_share_of_boxes_elsewhere() -> None:
    assert deviation(np.array([[2, 0], [0, 2]]), np.array([[1, 1], [0, 2]])) == 0.25
    assert deviation(np.array([[5, 0]]), np.array([[0, 7]])) == 1
    assert deviation(np.array([[3, 1]]), np.array([[6, 2]])) == 0


def test_the_histogram_counts_by_class_and_area_without_crowds_and_empty_boxes() -> None:
    document = make_document(1, 2, boxes=1)

    def box(category: int, area: float, crowd: int = 0) -> dict:
        return {
            "image_id": 100,
            "category_id": category,
            "bbox": [0, 0, 200, 200],
            "area": area,
            "iscrowd": crowd,
        }

    document["annotations"] = [
        box(1, 1),
        box(1, 1023),
        box(1, 1024),
        box(11, 9216),
        box(11, 9216, crowd=1),
        box(11, 0),
    ]
    del document["annotations"][3]["area"]  # without it, the box's own area counts
    assert class_size_histogram(document).tolist() == [[2, 1, 0], [0, 0, 1]]


def test_a_set_without_boxes_is_sampled() -> None:
    document = {**make_document(10, 2), "annotations": []}
    train, val = sample_proxy(document, 5, 3, 0)
    assert (len(train["images"]), len(val["images"])) == (5, 3)


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        (0, 5, "proxy.train_images: a subset holds at least 1 image, not 0"),
        (5, -2, "proxy.val_images: a subset holds at least 1 image, not -2"),
        (11, 5, "proxy.train_images: 11 images asked for, and the set holds only 10"),
        (5, 11, "proxy.val_images: 11 images asked for, and the set holds only 10"),
        (6, 5, "proxy.train_images: 6 images to train on and 5 others to validate on are 11"),
    ],
)
def test_impossible_sizes_name_the_setting(train: int, val: int, said: str, tmp_path: Path) -> None:
    path, out = tmp_path / "all.json", tmp_path / "proxy"
    write_annotations(path, make_document(10, 2))
    with pytest.raises(WrongUse) as caught:
        write_proxy(path, train, val, out, seed=0)
    assert str(caught.value).startswith(said)
    assert not out.exists()


def test_the_files_and_the_report_say_the_same(tmp_path: Path) -> None:
    document = make_document(300, 3)
    path = tmp_path / "all.json"
    write_annotations(path, document)
    files = write_proxy(path, 100, 40, tmp_path / "new" / "proxy", seed=3)
    train, val = read_annotations(files.train_path), read_annotations(files.val_path)
    assert (train, val) == sample_proxy(document, 100, 40, 3)
    assert sorted(p.name for p in files.train_path.parent.iterdir()) == ["train.json", "val.json"]
    whole = class_size_histogram(document)
    for subset, report in [
        (document, files.report.whole),
        (train, files.report.train),
        (val, files.report.val),
    ]:
        counts = class_size_histogram(subset)
        assert (report.images, report.boxes) == (len(subset["images"]), counts.sum())
        assert report.images_without_boxes == round(share_without_boxes(subset) * report.images)
        assert report.deviation == deviation(counts, whole)
        assert list(report.class_shares) == ["class 0", "class 1", "class 2"]
        assert list(report.class_shares.values()) == pytest.approx(
            counts.sum(axis=1) / counts.sum()
        )
        assert list(report.size_shares.values()) == pytest.approx(counts.sum(axis=0) / counts.sum())
    check_disjoint(split(files.train_path), split(files.val_path))


def test_a_proxy_is_not_written_beside_its_set(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    write_annotations(path, make_document(20, 2))
    before = path.read_bytes()
    with pytest.raises(WrongUse, match=r"^proxy\.folder: .*give the proxy a folder of its own"):
        write_proxy(path, 5, 5, tmp_path / "sub" / "..", seed=0)
    with pytest.raises(WrongUse, match=r"^proxy\.folder: .*can't make this folder"):
        write_proxy(path, 5, 5, path / "proxy", seed=0)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def split(file: Path, images: str = "images") -> Split:
    return Split(annotations=str(file), images=images)


def test_shared_images_are_told(tmp_path: Path) -> None:
    document = make_document(10, 2)
    halves = {}
    for name, images in [("a", document["images"][:6]), ("b", document["images"][4:])]:
        halves[name] = tmp_path / f"{name}.json"
        write_annotations(halves[name], {**document, "images": images, "annotations": []})
    with pytest.raises(WrongUse) as caught:
        check_disjoint(split(halves["a"]), split(halves["b"]))
    said = str(caught.value)
    assert said.startswith(f"{halves['a']} and {halves['b']} share 2 images (first: 4.jpg)")
    check_disjoint(split(halves["a"]), split(halves["b"], "other/images"))
