"""Configs of data sets: found inside of wrappers, given other files, and cached as far as fixed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from detkds.data import ShapesFiles, join, make_shapes, part_of, read_document, read_split
from detkds.data.datasets import cached, files_of, innermost, views, with_files, without_files
from detkds.data.loading import built
from detkds.settings import Split
from detkds.space import WrongUse
from mmengine.runner import set_random_seed
from two_configs import (
    AUGMENTED,
    FIXED,
    FLIP,
    LOAD,
    PACK,
    REMIXED,
    RESIZE,
    mosaic_set,
    shapes_set,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=6, val=3, test=3, size=64)


def wrapped(files: ShapesFiles, pipeline: list) -> dict[str, Any]:
    """Two splits of the set side by side, in all of mmdet's plain wrappers."""
    sets = [shapes_set(files, name, pipeline) for name in ("train", "val")]
    balanced = {"type": "ClassBalancedDataset", "oversample_thr": 1e-3, "dataset": sets[0]}
    joined = {"type": "ConcatDataset", "datasets": [balanced, sets[1]]}
    return {"type": "RepeatDataset", "times": 2, "dataset": joined}


def test_the_innermost_sets_are_found_and_given_other_files(files: ShapesFiles) -> None:
    config = wrapped(files, FIXED)
    before = copy.deepcopy(config)
    found = [files_of(inner) for inner in innermost(config, "dataset")]
    assert [one.annotations for one in found] == [str(files.train), str(files.val)]
    assert found[0].images.rstrip("/") == str(files.images)
    other = Split(annotations=str(files.test), images=str(files.images))
    joined = with_files(config, other.model_copy(update={"parts": [other, found[1]]}))
    assert len(built(joined)) == 2 * (3 + 3)
    alone = with_files(config, other)
    assert alone["type"] == "CocoDataset"
    assert len(built(alone)) == 3
    mixed = with_files(mosaic_set(files), other)
    assert mixed["type"] == "MultiImageMixDataset"
    assert len(built(mixed)) == 3
    assert config == before, "copies changed"
    assert "json" not in str(without_files(config))


@pytest.mark.parametrize(
    ("wrapper", "where"),
    [
        ({"type": "MyWrapper", "source": {"ann_file": "a.json"}}, "dataset: MyWrapper has no"),
        ({"type": "RepeatDataset", "dataset": {"type": "Mine"}}, "dataset.dataset: Mine has no"),
        ({"type": "ConcatDataset", "datasets": []}, "dataset: ConcatDataset has no"),
        (None, "dataset: it is no config of a data set: None"),
    ],
)
def test_a_wrapper_whose_innermost_set_is_not_found_is_named(wrapper: Any, where: str) -> None:
    with pytest.raises(WrongUse) as refused:
        innermost(wrapper, "dataset")
    assert str(refused.value).startswith(where)


CHOICE = {"type": "RandomChoiceResize", "scales": [(64, 64), (96, 96)], "keep_ratio": True}
#: A pipeline, and in how many sizes it gives an image; None: another image every time.
PIPELINES = {
    "fixed": (FIXED, 1),
    "scoped": ([{**one, "type": f"mmdet.{one['type']}"} for one in FIXED], 1),
    "one of two sizes": ([*LOAD, CHOICE, FLIP, PACK], 2),
    "augmented": (AUGMENTED, None),
    **{
        name: ([*LOAD, RESIZE, one, PACK], None)
        for name, one in {
            "crop": {"type": "RandomCrop", "crop_size": (32, 32)},
            "colours": {"type": "PhotoMetricDistortion"},
            "range": {"type": "RandomResize", "scale": (64, 64), "ratio_range": (0.5, 2.0)},
            "two directions": {"type": "RandomFlip", "direction": ["horizontal", "vertical"]},
            "affine": {"type": "RandomAffine"},
            "hues": {"type": "YOLOXHSVRandomAug"},
            "mosaic of images seen before": REMIXED[2],
            "mixup with images seen before": REMIXED[-2],
            "the user's own": {"type": "MyTransform"},
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_only_fixed_images_are_remembered(files: ShapesFiles, name: str) -> None:
    pipeline, sizes = PIPELINES[name]
    assert views(shapes_set(files, "train", pipeline)) == sizes
    assert views(wrapped(files, pipeline)) == sizes
    assert views(cached(wrapped(files, pipeline), 64)) == sizes


def test_a_mosaic_other_pipelines_side_by_side_and_unknown_sets_are_not_remembered(
    files: ShapesFiles,
) -> None:
    assert views(mosaic_set(files)) is None
    fixed = shapes_set(files, "train", FIXED)
    assert views({**fixed, "type": "MyDataset"}) is None
    larger = [*LOAD, {**RESIZE, "scale": (96, 96)}, FLIP, PACK]
    two = [fixed, shapes_set(files, "train", larger)]
    assert views({"type": "ConcatDataset", "datasets": two}) is None
    assert views({"type": "MyWrapper", "dataset": fixed}) is None


def draws(config: dict[str, Any], epochs: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels and boxes of all images in some epochs, from one seed."""
    dataset = built(config)
    set_random_seed(3)
    seen = [dataset[index] for _ in range(epochs) for index in range(len(dataset))]
    assert np.random.rand() >= 0
    return [(one["inputs"], one["data_samples"].gt_instances.bboxes.tensor) for one in seen]


@pytest.mark.parametrize("kind", ["fixed", "augmented", "colours", "mosaic", "remixed", "wrapped"])
def test_a_cache_changes_no_draw(files: ShapesFiles, kind: str) -> None:
    """Pixel by pixel and box by box, over epochs: crops and mosaics are drawn anew."""
    config = {
        "fixed": shapes_set(files, "train", FIXED),
        "augmented": shapes_set(files, "train", AUGMENTED),
        "colours": shapes_set(files, "train", [*LOAD, RESIZE, AUGMENTED[-3], PACK]),
        "mosaic": mosaic_set(files),
        "remixed": shapes_set(files, "train", REMIXED),
        "wrapped": wrapped(files, AUGMENTED),
    }[kind]
    kept = cached(config, 64)
    first = innermost(kept, "dataset")[0]["pipeline"][0]
    assert first["type"] == "CachedTransforms"
    assert {one["type"] for one in first["transforms"]} <= {*(o["type"] for o in LOAD), "Resize"}
    plain, again = draws(config), draws(kept)
    assert len(plain) == len(again)
    for (pixels, boxes), (expected, true) in zip(again, plain, strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(boxes, true)
    images = len(plain) // 3
    same = [torch.equal(plain[i][0], plain[i + images][0]) for i in range(images)]
    assert any(same) == (kind == "fixed"), "an image comes again, or never does"


def test_a_cache_is_in_use_and_copies_share_it(files: ShapesFiles) -> None:
    dataset = built(cached(shapes_set(files, "train", AUGMENTED), 64))
    (keeper,) = (one for one in dataset.pipeline.transforms if hasattr(one, "known"))
    for index in range(len(dataset)):
        assert dataset[index]
    assert len(keeper.known) == len(dataset)
    other = copy.deepcopy(dataset)
    assert other.pipeline.transforms[0] is keeper


def test_sets_are_joined_and_parted_again(files: ShapesFiles, tmp_path: Any) -> None:
    more = make_shapes(tmp_path / "more", train=4, val=1, test=1, size=64, seed=5)
    parts = [Split(annotations=str(one.train), images=str(one.images)) for one in (files, more)]
    split = join(parts, tmp_path / "joined.json")
    document = read_split(split)
    assert len(document["images"]) == 6 + 4
    assert len({image["id"] for image in document["images"]}) == 10
    for number, part in enumerate(parts):
        own, whole = read_document(part), part_of(document, split, number)
        assert [i["file_name"] for i in whole["images"]] == [i["file_name"] for i in own["images"]]
        boxes = [[a["bbox"] for a in one["annotations"]] for one in (whole, own)]
        assert boxes[0] == boxes[1]
    assert join(parts[:1], tmp_path / "joined.json") == parts[0]
