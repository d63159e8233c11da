"""What a search leaves of its detectors for the report: made once, and no reason to fail."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import tiny
import torch
from detkds.detectors import build_detector, configured
from detkds.search import detections
from detkds.search.detections import look_at_detections
from detkds.search.plans.full import final_trainings
from detkds.search.plans.models import trained
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.search.record import detections_file, read_detections
from detkds.settings import load_config
from detkds.space import Distiller, Outcome, Status
from detkds.workers.scoring import score_job
from detkds.workers.training import Training
from one_process import Said, jobs_of

OPTIONS = (
    *tiny.OPTIONS,
    "data.synthetic.train=24",
    "proxy.train_images=16",
    "proxy.val_images=8",
    "final.compare=['none','pkd','found']",
    "final.pictures=3",
)


def untrained(training: Training, scores: float = 0.0) -> Training:
    """A training that has left random weights; ``scores``: the bias of the class scores."""
    folder = Path(training.folder)
    folder.mkdir(parents=True)
    model = build_detector(configured(training.model))
    model.init_weights()
    torch.nn.init.constant_(model.bbox_head.retina_cls.bias, scores)
    torch.save({"state_dict": model.state_dict()}, training.checkpoint)
    return training


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = make_plan(load_config("quickstart", OPTIONS), tmp_path)
    make_data(plan)
    assert plan.teacher is not None
    untrained(plan.teacher)
    return plan


@pytest.fixture
def results(plan: Plan) -> list[tuple[Training, Outcome]]:
    """The student alone, which finds nothing, and others, which find something by chance."""
    found = Distiller.parse("global: identity, pearson × 5", "found")
    score = Outcome(Status.COMPLETED, score=0.0)
    trainings = final_trainings(plan, {"found": found})
    return [(untrained(one, -30.0 if one.name == "none" else 0.0), score) for one in trainings]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return jobs_of(detections, monkeypatch)


def test_detectors_are_looked_at_once_and_have_the_aps_that_they_are_scored_by(
    plan, results, jobs, tmp_path
):
    said = Said()
    look_at_detections(plan, results, said, "a")
    assert said.lines == [
        f"detections  in 8 test images, for `detkds report`: {detections_file(tmp_path, 'a')}"
    ]
    found = read_detections(tmp_path, "a")
    assert found is not None
    assert found["names"] == {"alone": "none", "distilled": "found"}
    alone, distilled, _ = (found["detectors"][r] for r in ("alone", "distilled", "teacher"))
    split, data = plan.test, plan.config.data
    assert split is not None
    (training,) = (one for one, _ in results if one.name == "found")
    model = trained(training.model, training)
    scored = score_job(model, split, data, plan.config.job, threads=1)
    assert scored["bbox_mAP_50"] > 0
    assert distilled["ap"] == pytest.approx(scored["bbox_mAP"], abs=6e-4)
    for iou, name in (("0.5", "bbox_mAP_50"), ("0.75", "bbox_mAP_75")):
        assert sum(distilled["precision"][iou]) / 101 == pytest.approx(scored[name], abs=6e-4)

    document = json.loads(Path(plan.test.annotations).read_text())
    count = Counter(one["image_id"] for one in document["annotations"])
    missed = {"gain": 1.0, "count": count.total()}
    assert (alone["ap"], alone["right"], alone["errors"]["missed"]) == (0.0, 0, missed)
    assert sum(found["objects"]) == count.total()
    files = {one["file_name"]: one["id"] for one in document["images"]}
    rights = []
    for one in found["pictures"]:
        assert (tmp_path / found["images"] / one["file"]).is_file(), "it may move with the folder"
        assert len(one["truth"]) == count[files[one["file"]]]
        assert one["found"]["alone"] == {"boxes": [], "missed": list(range(len(one["truth"])))}
        kinds = [box[-1] for box in one["found"]["distilled"]["boxes"]]
        rights.append(kinds.count("right"))
        assert len(one["found"]["distilled"]["missed"]) == len(one["truth"]) - rights[-1]
    assert rights == sorted(rights, reverse=True), "the images in which the students differ most"
    assert 0 < rights[0] <= sum(rights) <= distilled["right"]
    assert found["maps"]["levels"].keys() == {"alone", "distilled"}
    assert all(distance > 0 for distance in found["maps"]["levels"]["alone"].values())

    look_at_detections(plan, results, said, "a")
    assert len(jobs) == 1
    plan.config.final.pictures = 2
    look_at_detections(plan, results, said, "a")
    assert len(jobs) == 2
    assert len(read_detections(tmp_path, "a")["pictures"]) == 2


def test_a_failure_is_one_line_and_leaves_no_file(plan, results, jobs, tmp_path):
    detections_file(tmp_path, "a").write_text("{}")
    Path(plan.teacher.checkpoint).write_bytes(b"no checkpoint")
    said = Said()
    look_at_detections(plan, results, said, "a")
    (line,) = said.lines
    assert line.startswith("the report will show no detections: ")
    assert "\n" not in line
    assert not detections_file(tmp_path, "a").exists()


def test_without_students_or_pictures_nothing_runs(plan, results, jobs, tmp_path):
    said = Said()
    look_at_detections(plan, [], said, "a")
    plan.config.final.pictures = 0
    look_at_detections(plan, results, said, "a")
    plan.config.final.pictures = 3
    for training, _ in results:
        training.checkpoint.unlink()
    look_at_detections(plan, results, said, "a")
    assert (jobs, said.lines) == ([], [])
