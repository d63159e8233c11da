"""Detectors scored alone, on a worker, and the images that they are scored on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ..data.loading import build_metric, built
from ..settings import Data, Model, Split
from .job import give_scored
from .runner import score
from .student import build_teacher


def scored_images(
    own: Mapping[str, Any], data: Data, split: Split
) -> tuple[dict[str, Any], Any, Any]:
    """The loader's config, the data set and COCO's metrics that a detector is scored by.

    ``own``: the section ``job``, whose loader the images come from; without a loader, ``data`` says
    how they look.
    """
    job = copy.deepcopy(dict(own))
    give_scored(job, data, split)
    dataset = built(job["val_dataloader"]["dataset"])
    return job["val_dataloader"], dataset, build_metric(job["val_evaluator"], dataset)


def score_job(
    model: Model, split: Split, data: Data, own: Mapping[str, Any], threads: int
) -> dict[str, float]:
    """Build a teacher and score it on images of its size: COCO's box metrics, in [0, 1].

    ``own`` and ``data``: as for :func:`scored_images`.
    """
    torch.set_num_threads(threads)
    loader, dataset, metric = scored_images(own, data.for_teachers, split)
    return score(build_teacher(model), dataset, metric, num_workers=loader["num_workers"])
