"""What trained detectors see in the test images: boxes, curves, errors, maps; plain data.

Run once after a search's trainings, where a worker is, for the report to read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval
from torch.utils.data import Subset

from ..data.loading import quiet
from ..settings import Data, Model, Split
from .error_kinds import KINDS, RIGHT, Judged, balanced_score, gains, judge
from .feature_distances import feature_distances
from .runner import score
from .scoring import scored_images
from .student import build_teacher

#: Test images that are looked at, at most, evenly spaced over the split.
IMAGES = 500
#: The roles of detectors. The teacher is last: the students' maps are compared with the teacher's.
ALONE, DISTILLED, TEACHER = "alone", "distilled", "teacher"


@dataclass
class _Detector:
    """A detector with its weights, the images as it sees them, and what it finds in them."""

    model: Any
    dataset: Any
    #: What the detector finds, as COCO's results have it.
    found: list[dict[str, Any]]
    images: list[Judged]
    #: The score from which on it finds an object, for pictures and counts.
    threshold: float

    def right(self, image: int) -> int:
        """How many objects of an image it finds."""
        return int((self.images[image].above(self.threshold).kinds == RIGHT).sum())


def look(
    models: Mapping[str, tuple[Model, Data]],
    split: Split,
    own: Mapping[str, Any],
    batch_size: int,
    pictures: int,
    threads: int,
) -> dict[str, Any]:
    """Run detectors over the test images, and measure the students' maps against the teacher's.

    ``models``: by role, a model with its checkpoint, and how it sees the images. ``split``: the
    test split. ``own``: the section ``job``. ``pictures``: images that are shown; of the images
    looked at, those are chosen in which the numbers of objects that student alone and distilled
    student find differ most, in whichever direction; of these, those with the most objects, then
    the first.

    Boxes are [x, y, width, height] in pixels of the image's file; APs and precisions are in [0, 1],
    and None for a class without objects. Precisions are COCO's at 101 recalls, mean over classes.
    """
    torch.set_num_threads(threads)
    detectors: dict[str, _Detector] = {}
    coco: Any = None
    for role, (model, data) in models.items():
        loader, dataset, metric = scored_images(own, data, split)
        places = np.unique(np.linspace(0, len(dataset) - 1, IMAGES).round().astype(int)).tolist()
        metric.img_ids = [dataset.get_data_info(place)["img_id"] for place in places]
        sizes = loader.get("batch_size", batch_size), loader["num_workers"]
        net = build_teacher(model)
        found = _predictions(net, Subset(dataset, places), metric, *sizes)
        coco = coco or _Truth(metric, places)
        images = coco.judged(found)
        detectors[role] = _Detector(net, dataset, found, images, balanced_score(images))
    chosen = _chosen(detectors, coco, pictures)
    maps = feature_distances(
        {role: (one.model, one.dataset) for role, one in detectors.items() if role != TEACHER},
        (detectors[TEACHER].model, detectors[TEACHER].dataset) if TEACHER in detectors else None,
        [coco.places[image] for image in chosen],
    )
    return {
        "looked_at": len(coco.images),
        "of": len(next(iter(detectors.values())).dataset),
        "classes": coco.names,
        "objects": coco.objects.tolist(),
        "detectors": {role: _measured(one, coco) for role, one in detectors.items()},
        "pictures": [
            {**coco.picture(image), "found": {r: _shown(o, image) for r, o in detectors.items()}}
            for image in chosen
        ],
        "maps": maps,
    }


def _predictions(
    model: Any, dataset: Any, metric: Any, batch_size: int, num_workers: int
) -> list[dict[str, Any]]:
    """What a detector finds in each image, as mmdet's metric gets it.

    The metric runs as after a training, and so knows which images and classes it counts.
    """
    kept: list[dict[str, Any]] = []
    compute = metric.compute_metrics

    def keep(results: list[tuple[dict, dict]]) -> Any:
        kept.extend(found for _, found in results)
        return compute(results)

    metric.compute_metrics = keep
    score(model.to(get_device()), dataset, metric, batch_size, num_workers)
    return kept


class _Truth:
    """The ground truth of the images that are looked at, by COCO's own program."""

    def __init__(self, metric: Any, places: Sequence[int]) -> None:
        self.coco, self.ids, self.places = metric._coco_api, metric.cat_ids, places
        self.images = metric.img_ids
        self.names = [self.coco.cats[one]["name"] for one in self.ids]
        labels = {one: label for label, one in enumerate(self.ids)}
        self.boxes, self.labels, self.crowd = [], [], []
        for image in self.images:
            own = [one for one in self.coco.imgToAnns[image] if one["category_id"] in labels]
            self.boxes.append(np.array([one["bbox"] for one in own], float).reshape(-1, 4))
            self.labels.append(np.array([labels[one["category_id"]] for one in own], int))
            self.crowd.append(np.array([one.get("iscrowd", 0) for one in own], bool))

    @property
    def objects(self) -> NDArray:
        """How many objects each class has."""
        pairs = zip(self.labels, self.crowd, strict=True)
        labels = np.concatenate([labels[~crowd] for labels, crowd in pairs])
        return np.bincount(labels, minlength=len(self.ids))

    def judged(self, found: Sequence[Mapping[str, Any]]) -> list[Judged]:
        """What a detector finds, image by image, judged."""
        by_image = {one["img_id"]: one for one in found}
        judged = []
        for image, boxes, labels, crowd in zip(
            self.images, self.boxes, self.labels, self.crowd, strict=True
        ):
            own = by_image[image]
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            parts = (own["bboxes"].astype(float), own["scores"], own["labels"])
            judged.append(judge(*parts, corners, labels, crowd))
        return judged

    def precision(self, found: Sequence[Mapping[str, Any]]) -> NDArray:
        """COCO's precisions (10 IoUs from 0.5 to 0.95, 101 recalls, classes); -1: no objects."""
        results = [
            {"image_id": one["img_id"], "category_id": self.ids[label], "score": float(score),
             "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            for one in found
            for box, score, label in zip(
                one["bboxes"].tolist(), one["scores"], one["labels"], strict=True
            )
        ]  # fmt: skip
        if not results:
            return np.broadcast_to(np.where(self.objects, 0.0, -1.0), (10, 101, len(self.ids)))
        with quiet():
            evaluation = COCOeval(self.coco, self.coco.loadRes(results), "bbox")
            evaluation.params.catIds, evaluation.params.imgIds = self.ids, self.images
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"][:, :, :, 0, -1]

    def picture(self, image: int) -> dict[str, Any]:
        """An image's file, its size in pixels, and its objects."""
        info = self.coco.imgs[self.images[image]]
        rows = zip(self.boxes[image], self.labels[image], self.crowd[image], strict=True)
        return {
            "file": info["file_name"],
            "width": info["width"],
            "height": info["height"],
            "truth": [[*_rounded(box), int(label), bool(crowd)] for box, label, crowd in rows],
        }


def _chosen(detectors: Mapping[str, _Detector], truth: _Truth, pictures: int) -> list[int]:
    """The images that are shown: see :func:`look`."""
    students = [one for role, one in detectors.items() if role != TEACHER]
    compared = students if len(students) > 1 else list(detectors.values())

    def rank(image: int) -> tuple[int, int, int]:
        counts = [one.right(image) for one in compared]
        return min(counts) - max(counts), -int((~truth.crowd[image]).sum()), image

    return sorted(range(len(truth.images)), key=rank)[:pictures]


def _measured(detector: _Detector, truth: _Truth) -> dict[str, Any]:
    """AP, precision by recall, the AP of each class, and the errors by kind."""
    precision = truth.precision(detector.found)
    counted = precision[:, :, truth.objects > 0]
    aps = precision.mean(axis=(0, 1))
    gained = gains(detector.images, len(truth.ids))
    shown = [image.above(detector.threshold) for image in detector.images]
    return {
        "ap": float(counted.mean()) if counted.size else None,
        "precision": {
            iou: counted[place].mean(axis=1).round(4).tolist() if counted.size else []
            for iou, place in (("0.5", 0), ("0.75", 5))
        },
        "class_aps": [round(float(ap), 4) if ap >= 0 else None for ap in aps],
        "threshold": detector.threshold,
        "right": sum(int((one.kinds == RIGHT).sum()) for one in shown),
        "errors": {
            kind: {"gain": round(gained[kind], 4), "count": sum(one.count(kind) for one in shown)}
            for kind in KINDS
        },
    }


def _shown(detector: _Detector, image: int) -> dict[str, Any]:
    """The boxes that a detector finds in an image, with label, score and kind, the best first.

    ``missed``: the places in the picture's ``truth`` of the objects that no box is right about.
    """
    one = detector.images[image].above(detector.threshold)
    sizes = np.concatenate([one.boxes[:, :2], one.boxes[:, 2:] - one.boxes[:, :2]], axis=1)
    rows = zip(sizes, one.labels, one.scores, one.kinds, strict=True)
    return {
        "boxes": [
            [*_rounded(box), int(label), round(float(score), 3), str(kind)]
            for box, label, score, kind in rows
        ],
        "missed": np.flatnonzero(one.free).tolist(),
    }


def _rounded(box: NDArray) -> list[float]:
    return [round(float(side), 1) for side in box]
