"""The section ``data`` puts portraits and landscapes into batches of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detkds.data.loading import built
from detkds.settings import Data, Split
from detkds.workers.job import make_job
from detkds.workers.resuming import in_batches
from mmcv import imwrite
from mmengine.runner import Runner

SIZES = {"portrait": (40, 64), "landscape": (64, 40)}


def split_of(folder: Path, orientations: list[str]) -> Split:
    """A COCO file of black images, each with one box."""
    images, boxes = [], []
    for index, name in enumerate(orientations):
        width, height = SIZES[name]
        imwrite(
            torch.zeros(height, width, 3, dtype=torch.uint8).numpy(), str(folder / f"{index}.png")
        )
        images.append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "category_id": 1}
        boxes.append({"id": index + 1, "image_id": index, **box})
    document = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "all.json").write_text(json.dumps(document))
    return Split(annotations=str(folder / "all.json"), images=str(folder))


def batches(folder: Path, orientations: list[str], *, plain: bool = False) -> list[list[Any]]:
    """The shapes and numbers of the images of each batch of an epoch, as a training draws them."""
    folder.mkdir(exist_ok=True)
    split = split_of(folder, orientations)
    data = Data(train=split, image_size=(64, 64))
    loader = {**make_job({}, data, split, None)["train_dataloader"], "batch_size": 4}
    if plain:
        loader.pop("batch_sampler")
    loader = in_batches(loader, built(loader["dataset"]))
    torch.manual_seed(0)
    return [
        [(sample.img_shape, sample.img_id) for sample in batch["data_samples"]]
        for batch in Runner.build_dataloader(loader, seed=0)
    ]


def test_a_batch_has_one_orientation(tmp_path: Path) -> None:
    found = batches(tmp_path, ["portrait", "landscape"] * 10)
    assert [len(batch) for batch in found] == [4] * 5
    mixed = [len({shape for shape, _ in batch}) > 1 for batch in found]
    assert sum(mixed) <= 1, "only what is left over"
    assert not any(mixed[:-1])
    assert sorted(number for batch in found for _, number in batch) == list(range(20))
    plain = batches(tmp_path, ["portrait", "landscape"] * 10, plain=True)
    assert any(len({shape for shape, _ in batch}) > 1 for batch in plain[:-1])


def test_images_of_one_orientation_are_in_the_same_batches_as_before(tmp_path: Path) -> None:
    for name in SIZES:
        given = tmp_path / name, [name] * 11
        assert batches(*given) == batches(*given, plain=True)
