"""From the student's mmdet config to the sections of a search, and what is checked of it."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data import Document, class_ids, join, read_document
from ...data.datasets import Config, files_of, innermost, repeats, with_files
from ...data.formats import as_coco
from ...data.loading import built, known_classes, metric_config
from ...detectors import whole_config
from ...settings import Model, Split
from ...settings.load import merge, validated
from ...space import WrongUse
from ...workers.leftovers import temporary
from ...workers.resuming import seeded
from .job_schedules import MOST_SEEN, own_schedule, trial_schedule

#: What of a mmdet config says how a training goes: mmengine's Runner takes it, besides the model,
#: the optimizer and the schedulers.
RUNNER = (
    *("train_dataloader", "train_cfg", "val_dataloader", "val_cfg", "val_evaluator"),
    *("default_hooks", "custom_hooks", "visualizer", "log_processor", "log_level", "env_cfg"),
    *("auto_scale_lr", "randomness", "default_scope"),
    *("model_wrapper_cfg", "find_unused_parameters", "sync_bn"),
)
#: What a student's config must have, and what it says.
NEEDED = {
    "train_dataloader": "the images to train on",
    "val_dataloader": "the images to score on",
    "val_evaluator": "the metrics",
    "train_cfg": "how long the training is",
    "optim_wrapper": "the optimizer",
}
#: A trial's proxy: two thirds of the images to train on and one third to score on, and at most
#: DetKDS's 25,000 and 5,000 (Section 4.1).
MAX_PROXY = (MOST_SEEN, 5_000)
#: Images that the pipeline is tried on before anything starts.
TRIED = 8


def completed(given: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The sections of a search whose student's config says what ``given`` leaves out.

    ``given``: ``student`` and more sections, or parts of them. Data, loaders, hooks and schedules
    are the student's; the proxy and the trial's length are derived. What is given stays. Returns
    the sections and, in words, what was derived. ``folder``: the work folder, where the annotations
    of joined data sets will be written. Raises :class:`WrongUse` if the student's config lacks a
    part.
    """
    student = validated(Model, given.get("student"), "student")
    whole = whole_config(student.config, student.cfg_options).to_dict()
    name = student.config if isinstance(student.config, str) else "the config"
    for part, meaning in NEEDED.items():
        if not whole.get(part):
            raise WrongUse(
                f"{name} has no `{part}`, {meaning}: add it to that config, or give a search "
                "config with the sections data, proxy, trial and final",
                "student",
            )
    job = {part: copy.deepcopy(whole[part]) for part in RUNNER if whole.get(part) is not None}
    train, val = (_files(job, loader, folder) for loader in ("train_dataloader", "val_dataloader"))
    job["val_evaluator"] = _evaluators(job["val_evaluator"], val)
    images = len(read_document(train)["images"])
    times = repeats(job["train_dataloader"]["dataset"])
    processes = (given.get("final") or {}).get("processes", 1)
    iterations = job["train_cfg"].get("max_iters")
    schedule = own_schedule(job, whole, images * times, processes)
    shares = images * 2 // 3, images - images * 2 // 3
    proxy = {
        name: min(most, share)
        for name, most, share in zip(("train_images", "val_images"), MAX_PROXY, shares, strict=True)
    }
    given_proxy = given.get("proxy") or {}
    trained = given_proxy.get("train_images", proxy["train_images"])
    if given_proxy.get("train") is not None:
        drawn = validated(Split, given_proxy["train"], "proxy.train")
        proxy, trained = {}, len(read_document(drawn)["images"])
    trial = trial_schedule(schedule, trained * times, images * times)
    seed = (job.get("randomness") or {}).get("seed")
    job.pop("randomness", None) if seed is None else job["randomness"].pop("seed")
    derived: dict[str, Any] = {
        "job": job,
        "data": {
            name: split.model_dump(exclude_defaults=True)
            for name, split in (("train", train), ("test", val))
        },
        "proxy": proxy,
        "trial": trial,
        "final": {**schedule, "seeds": [seed or 0], "compare": []},
        "search": {"seed": seed or 0},
    }
    if whole.get("load_from") and student.checkpoint is None:
        derived["student"] = {"load_from": whole["load_from"]}
    sections = merge(derived, given)
    notes = _notes(name, images, sections)
    if iterations is not None:
        notes.append(
            f"final: {iterations} iterations are {schedule['epochs']} epochs (final.epochs)"
        )
    return sections, notes


def _files(job: Config, loader: str, folder: Path) -> Split:
    """The files of a loader's data sets. The job's config has their whole paths from then on."""
    where = f"{loader}.dataset"
    name = loader.partition("_")[0]
    parts = [
        as_coco(inner, str(folder.absolute() / f"{name}_{number}.json"), where) or files_of(inner)
        for number, inner in enumerate(innermost(job[loader].get("dataset"), where))
    ]
    split = join(parts, folder.absolute() / f"joined_{name}.json")
    job[loader]["dataset"] = with_files(job[loader]["dataset"], split, where)
    return split


def _evaluators(asked: Any, val: Split) -> Any:
    """The config's evaluators by the whole paths of their files, and COCO's metrics in any case."""
    several = list(asked) if isinstance(asked, list | tuple) else [asked]
    for one in several:
        if isinstance(one, dict) and isinstance(one.get("ann_file"), str):
            one["ann_file"] = os.path.abspath(one["ann_file"])
    if any(str(one.get("type")).rpartition(".")[2] == "CocoMetric" for one in several):
        return asked
    return [*several, metric_config(val)]


def _notes(name: str, images: int, sections: Mapping[str, Any]) -> list[str]:
    """What was derived, and where it may be set, a line each."""
    proxy, trial, final = (sections[key] for key in ("proxy", "trial", "final"))
    notes = [f"job: {name} says data, pipelines, hooks and schedule"]
    if "train_images" in proxy:
        notes.append(
            f"proxy: of {images} training images, trials train on {proxy['train_images']} "
            f"(proxy.train_images) and are scored on {proxy['val_images']} others "
            "(proxy.val_images)"
        )
    notes.append(
        f"trial: {trial['epochs']} of {final['epochs']} epochs (trial.epochs), "
        f"{trial['batch_size']} images a step (trial.batch_size)"
    )
    if final.get("processes", 1) > 1:
        scaled = (sections["job"].get("auto_scale_lr") or {}).get("enable", False)
        notes.append(
            f"final: {final['processes']} processes (final.processes) take {final['batch_size']} "
            f"images a step each; the learning rate is {'' if scaled else 'not '}scaled by their "
            "number (job.auto_scale_lr)"
        )
    seeds = ", ".join(map(str, final["seeds"]))
    notes.append(
        f"seeds: {sections['search']['seed']} of the search (search.seed), {seeds} of full "
        "trainings (final.seeds)"
    )
    return notes


# Checks


def job_classes(job: Config, train: Split, document: Document) -> tuple[str, ...]:
    """The classes of a job's training set, whose files are ``train`` and hold ``document``.

    Raises :class:`WrongUse` if the set's classes are not in the file, or stand there in another
    order, since mmdet numbers the classes in the file's order.
    """
    return _classes(job, "train_dataloader", train, document)


def check_val_classes(
    job: Config, val: Split, document: Document, classes: tuple[str, ...]
) -> None:
    """Raise :class:`WrongUse` if the validation set has other classes than the training set."""
    there = _classes(job, "val_dataloader", val, document)
    if there != classes:
        raise WrongUse(
            f"val_dataloader.dataset.metainfo.classes: {_few(there)} differ from {_few(classes)} "
            "of the training set: give both the same",
            "student",
        )


def _classes(job: Config, loader: str, split: Split, document: Document) -> tuple[str, ...]:
    where = f"{loader}.dataset"
    found = {known_classes(inner) for inner in innermost(job[loader]["dataset"], where)}
    if len(found) > 1:
        first, second, *_ = sorted(map(_few, found))
        raise WrongUse(
            f"{where}: its data sets have different classes: {first}, {second}", "student"
        )
    (classes,) = found
    names = [name for _, name in sorted(class_ids(document).items())]
    if classes != tuple(name for name in names if name in classes):
        missing = [name for name in classes if name not in names]
        fault = f"lacks {_few(missing)}" if missing else "has them in another order"
        raise WrongUse(
            f"{where}.metainfo.classes: the data set's classes are {_few(classes)}, and "
            f"{split.annotations} {fault}: its own are {_few(names)}. Set metainfo.classes to "
            "them, in their order",
            "student",
        )
    return classes


def _few(names: Any) -> str:
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > 5 else ""
    return f"{', '.join(map(str, listed[:5]))}{more}"


def check_pipeline(job: Config, document: Document, train: Split, classes: tuple[str, ...]) -> None:
    """Build the job's training set on a few images, and load them.

    Raises :class:`WrongUse` if mmdet can't build or load them, and if no box comes through.
    """
    wanted = {number for number, name in class_ids(document).items() if name in classes}
    boxes = [
        one
        for one in document["annotations"]
        if one["category_id"] in wanted and not one.get("iscrowd") and min(one["bbox"][2:]) > 1
    ]
    boxes.sort(key=lambda one: -one["bbox"][2] * one["bbox"][3])  # a filter may drop small boxes
    chosen = list(dict.fromkeys(one["image_id"] for one in boxes))[:TRIED]
    few = {
        **document,
        "images": [_whole(image, train) for image in document["images"] if image["id"] in chosen],
        "annotations": [one for one in boxes if one["image_id"] in chosen],
    }
    where = "train_dataloader.dataset"
    with tempfile.TemporaryDirectory(prefix=temporary("pipeline")) as folder:
        file = Path(folder, "few.json")
        file.write_text(json.dumps(few), "utf-8")
        split = Split(annotations=str(file), images=folder)
        sets = len(innermost(job["train_dataloader"]["dataset"], where))
        every = split.model_copy(update={"parts": [split] * sets})
        try:
            with seeded(0):
                dataset = built(with_files(job["train_dataloader"]["dataset"], every, where))
                samples = [dataset[index] for index in range(min(TRIED, len(dataset)))]
            left = sum(len(one["data_samples"].gt_instances.get("bboxes", ())) for one in samples)
        except Exception as error:  # a pipeline's transforms raise anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise WrongUse(
                f"{where}: its pipeline can't load an image: {type(error).__name__}: {reason}",
                "student",
            ) from None
    if not left:
        raise WrongUse(
            f"{where}.pipeline drops the ground truth: {len(samples)} images with "
            f"{len(few['annotations'])} boxes come through it without one; it needs "
            "LoadAnnotations(with_bbox=True), and transforms that keep boxes",
            "student",
        )


def _whole(image: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """An image's entry with the whole path of its file."""
    return {**image, "file_name": os.path.join(split.images, image["file_name"])}
