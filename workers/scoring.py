"""A teacher scored alone, on a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..data.loading import build_metric, built
from ..settings import Data, Model, Split
from .job import make_job
from .runner import score
from .student import build_teacher


def score_job(
    model: Model, splits: tuple[Split, Split], data: Data, own: Mapping[str, Any], threads: int
) -> dict[str, float]:
    """Build a teacher and score it on images of its size: COCO's box metrics, in [0, 1].

    ``splits``: a training split, and the split that the teacher is scored on. ``own``: the section
    ``job``, whose loader the images come from; without a loader, ``data`` says how they look.
    """
    torch.set_num_threads(threads)
    teacher = build_teacher(model)
    job = make_job(own, data.for_teachers, *splits)
    loader = job["val_dataloader"]
    dataset = built(loader["dataset"])
    metric = build_metric(job["val_evaluator"], dataset)
    return score(teacher, dataset, metric, num_workers=loader["num_workers"])
