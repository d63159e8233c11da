"""Data sets of other formats: VOC's, and a user's own class. Their COCO-format copies are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from detkds.data import ShapesFiles, make_shapes, read_annotations, read_document, write_annotations
from detkds.data.datasets import innermost
from detkds.data.formats import as_coco
from detkds.data.loading import built
from detkds.data.synthetic import CLASSES
from detkds.search.plans.full import student_training
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import make_data, make_plan
from detkds.settings import SearchConfig
from detkds.settings.load import validated
from detkds.space import Status, WrongUse
from detkds.workers.training import Training, train
from detkds.workers.trial import TrialContext, evaluate
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from PIL import Image
from two_configs import LOAD, PACK, RESIZE, user_config

FIXED = [*LOAD, RESIZE, PACK]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=2, test=4, size=64)


def voc_set(files: ShapesFiles, split: str, root: Path, **own: Any) -> dict[str, Any]:
    """A split of the shapes in VOC's layout; every image's first box is difficult."""
    base = root / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / name).mkdir(parents=True, exist_ok=True)
    document = read_annotations(getattr(files, split))
    names = []
    for image in document["images"]:
        stem = f"{split}{image['id']}"
        names.append(stem)
        opened = Image.open(Path(files.images, image["file_name"])).convert("RGB")
        opened.save(base / "JPEGImages" / f"{stem}.jpg")
        objects = ""
        boxes = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        for number, one in enumerate(boxes):
            x, y, w, h = one["bbox"]
            kind = CLASSES[one["category_id"] - 1]
            objects += (
                f"<object><name>{kind}</name><difficult>{int(number == 0)}</difficult><bndbox>"
                f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax></bndbox></object>"
            )
        size = f"<width>{opened.width}</width><height>{opened.height}</height>"
        text = f"<annotation><size>{size}</size>{objects}</annotation>"
        (base / "Annotations" / f"{stem}.xml").write_text(text)
    (base / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return {
        "type": "VOCDataset",
        "data_root": str(root),
        "ann_file": f"VOC2007/ImageSets/Main/{split}.txt",
        "data_prefix": {"sub_data_root": "VOC2007/"},
        "metainfo": {"classes": CLASSES},
        "pipeline": FIXED,
        **own,
    }


@DATASETS.register_module(force=True)
class BoxesInText(BaseDetDataset):
    """A user's own data set: a line for each box, 'image class x1 y1 x2 y2'."""

    METAINFO: ClassVar = {"classes": ("square", "dot")}

    def load_data_list(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for line in Path(self.ann_file).read_text().splitlines():
            name, label, *box = line.split()
            path = str(Path(self.data_prefix["img"], name))
            one = {"img_path": path, "img_id": name, "height": 64, "width": 64, "instances": []}
            entry = found.setdefault(name, one)
            box = [float(value) for value in box]
            entry["instances"].append({"bbox": box, "bbox_label": int(label), "ignore_flag": 0})
        return list(found.values())


def text_set(files: ShapesFiles, folder: Path, **own: Any) -> dict[str, Any]:
    first, second, *_ = (one["file_name"] for one in read_annotations(files.train)["images"])
    lines = [f"{first} 0 1 2 33.5 40", f"{first} 1 8 8 20 20", f"{second} 1 3 4 60 50"]
    (folder / "boxes.txt").write_text("\n".join(lines))
    return {
        "type": "BoxesInText",
        "ann_file": str(folder / "boxes.txt"),
        "data_prefix": {"img": str(files.images)},
        "pipeline": FIXED,
        **own,
    }


def seen(dataset: Any) -> list[tuple[torch.Tensor, ...]]:
    """Pixels, boxes, labels, and the boxes that are ignored, image by image."""
    found = []
    for index in range(len(dataset)):
        one = dataset[index]
        both = one["data_samples"].gt_instances, one["data_samples"].ignored_instances
        boxes = [part for each in both for part in (each.bboxes.tensor, each.labels)]
        found.append((one["inputs"], *boxes))
    return found


@pytest.mark.parametrize("kind", ["voc", "voc with small boxes ignored", "own"])
def test_the_copy_shows_the_same_images_and_boxes(
    files: ShapesFiles, tmp_path: Path, kind: str
) -> None:
    small = {"filter_cfg": {"filter_empty_gt": True, "min_size": 32, "bbox_min_size": 20}}
    config = (
        text_set(files, tmp_path)
        if kind == "own"
        else voc_set(files, "train", tmp_path, **(small if "small" in kind else {}))
    )
    original = built(config)
    file = str(tmp_path / "copy.json")
    split = as_coco(config, file, "dataset")
    assert split is not None
    assert config["type"] == "CocoDataset"
    assert not Path(file).exists(), "a check writes nothing"
    write_annotations(file, read_document(split))
    copied = built(config)
    assert copied.metainfo["classes"] == original.metainfo["classes"]
    there, here = seen(original), seen(copied)
    assert len(there) == len(here) > 1
    ignored = sum(len(one[3]) for one in there)
    assert (ignored > 0) == (kind != "own")
    assert "small" not in kind or ignored > len(there), "more than the difficult ones"
    for expected, found in zip(there, here, strict=True):
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one)


def test_a_set_that_cannot_be_read_is_told(files: ShapesFiles, tmp_path: Path) -> None:
    config = voc_set(files, "test", tmp_path)
    next((tmp_path / "VOC2007" / "Annotations").glob("*.xml")).unlink()
    with pytest.raises(WrongUse) as refused:
        as_coco(config, "copy.json", "train_dataloader.dataset")
    assert str(refused.value).startswith("student: train_dataloader.dataset: mmdet can't read")
    assert "VOCDataset: FileNotFoundError" in str(refused.value)
    assert as_coco({"type": "CocoDataset"}, "copy.json", "dataset") is None


@pytest.mark.slow
def test_a_voc_config_is_searched_and_trained(files: ShapesFiles, tmp_path: Path) -> None:
    """mmdet's retinanet_r50_fpn_1x_voc0712, but for sizes: two sets side by side, VOC's metric."""
    sets = [voc_set(files, name, tmp_path / name) for name in ("train", "test")]
    joined = {"type": "ConcatDataset", "ignore_keys": ["dataset_type"], "datasets": sets}
    train_set = {"type": "RepeatDataset", "times": 2, "dataset": joined}
    config = user_config(
        tmp_path,
        files,
        train_set,
        val_evaluator={"_delete_": True, "type": "VOCMetric", "metric": "mAP"},
        **{
            "val_dataloader.dataset": {
                "_delete_": True,
                **voc_set(files, "val", tmp_path / "val", test_mode=True),
            }
        },
    )
    folder = tmp_path / "run"
    given = {"student": {"config": str(config)}, "search": {"knowledge": ["label"]}}
    sections, _ = completed({**given, "proxy": {"train_images": 8, "val_images": 4}}, folder)
    plan = make_plan(validated(SearchConfig, sections, "config"), folder)
    assert not folder.exists()
    make_data(plan)
    context = TrialContext.build(plan.task, plan.config.trial, plan.proxy, seed=0)
    assert len(context.train_set) == 2 * 8
    assert {one["type"] for one in innermost(plan.task.job["train_dataloader"]["dataset"], "")} == {
        "CocoDataset"
    }
    outcome = evaluate(context, None)
    assert outcome.status is Status.COMPLETED, outcome.error
    training: Training = student_training(plan, "none", None, 0)
    ended = train(training)
    assert ended.status is Status.COMPLETED, ended.error
    assert {"pascal_voc/AP50", "bbox_mAP"} <= set(ended.metrics)
