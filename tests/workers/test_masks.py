"""Students with a mask head, on COCO's own outlines: trained with masks and scored on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detkds.configs import distiller_file
from detkds.search.plans.checks import check_outlines
from detkds.settings import Data, Model, Split, Task, TrialSchedule, load_config
from detkds.space import Distiller, Status, WrongUse
from detkds.workers.trial import TrialContext, build_student, evaluate
from real_data import TINY_COCO

MASK_RCNN = Model(
    config="mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    cfg_options={
        "model.backbone.depth": 18,
        "model.backbone.init_cfg": None,
        "model.neck.in_channels": [64, 128, 256, 512],
        "model.train_cfg.rcnn.sampler.num": 32,
        "model.test_cfg.rcnn.score_thr": 0.0,
        "model.test_cfg.rcnn.max_per_img": 5,
    },
)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Four images of COCO, with their crowds."""
    if not TINY_COCO.is_dir():
        pytest.skip(f"no {TINY_COCO}")
    document = json.loads((TINY_COCO / "annotations" / "instances_train2017.json").read_text())
    document["images"] = document["images"][:4]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    file = tmp_path_factory.mktemp("coco") / "four.json"
    file.write_text(json.dumps(document))
    return Split(annotations=str(file), images=str(TINY_COCO / "train2017"))


@pytest.mark.slow
def test_a_trial_trains_and_scores_masks(split: Split, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pth"
    torch.save({"state_dict": build_student(MASK_RCNN, seed=1).state_dict()}, weights)
    task = Task(
        student=MASK_RCNN,
        teacher=MASK_RCNN.model_copy(update={"checkpoint": str(weights)}),
        inherit=True,
        data=Data(train=split, image_size=(160, 128)),
        threads=2,
    )
    optimizer = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.001}}
    schedule = TrialSchedule(epochs=1, batch_size=2, optim_wrapper=optimizer)
    context = TrialContext.build(task, schedule, (split, split), seed=0)
    preset = Distiller.from_json(distiller_file("detkds_two_stage"))
    # Channel attention of random weights looks at two channels of 256, which the filter refuses.
    distiller = Distiller.parse(str(preset).replace("catt → ", ""))
    outcome = evaluate(context, distiller)  # the filter's batch has masks, too
    assert outcome.status is Status.COMPLETED, outcome.error or outcome.reason
    assert {"bbox_mAP", "segm_mAP"} <= set(outcome.metrics)


def test_data_without_outlines_are_refused(tmp_path: Path) -> None:
    config = load_config("coco/mask_rcnn_r50__htc_r50")
    box = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    document = {
        "images": [image],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [box],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    boxes = Split(annotations=str(tmp_path / "boxes.json"), images=str(tmp_path))
    with pytest.raises(WrongUse, match=r"boxes\.json: annotation 7 has no segmentation"):
        check_outlines(config, [None, boxes])
    check_outlines(load_config("coco/retinanet_r50__htc_r50"), [boxes])
