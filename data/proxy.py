"""Proxy subsets: a small train and a small validation set, both drawn from the training set.

Trials run on the subsets, which must be like the whole set: each keeps the share of every class in
every COCO size class, the number of boxes an image and the share of images without boxes (the aim
of COCO minitrain: Samet et al., HoughNet, ECCV 2020).

The method: draw images at random, then swap images in and out as long as a swap brings the counts
nearer to those of the whole set. The images of both subsets together are drawn first, and the
validation images from them. Both draws are like the whole set, and so are the images that are left
for training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..settings import Split
from ..space import WrongUse
from .coco import (
    SIZES,
    Document,
    PathLike,
    read_annotations,
    read_document,
    size_class,
    write_together,
)

CANDIDATES = 64  # images on either side of a round, which compares 64 x 64 swaps
PATIENCE = 200  # the subset is final after so many rounds without a better swap


@dataclass(frozen=True)
class SubsetReport:
    """What a subset holds. Shares are shares of its boxes without the crowds.

    ``deviation`` is the total variation distance, in [0, 1], between the class x size histograms of
    the subset and of the whole set: the share of boxes in another class or size than in the whole.
    """

    images: int
    images_without_boxes: int
    boxes: int
    deviation: float
    class_shares: dict[str, float]
    size_shares: dict[str, float]


@dataclass(frozen=True)
class ProxyReport:
    """What the whole set and its two subsets hold."""

    whole: SubsetReport
    train: SubsetReport
    val: SubsetReport


@dataclass(frozen=True)
class ProxyFiles:
    """The files of a proxy and what they hold."""

    train_path: Path
    val_path: Path
    report: ProxyReport


def write_proxy(
    annotations_path: PathLike, train: int, val: int, out_dir: PathLike, seed: int = 0
) -> ProxyFiles:
    """Draw a proxy and write it as ``train.json`` and ``val.json``, both or neither.

    Raises :class:`WrongUse` as :func:`sample_proxy` does, and if ``out_dir`` is the folder of the
    annotations, where the set's own files could be overwritten.
    """
    document = read_annotations(annotations_path)
    train_document, val_document = sample_proxy(document, train, val, seed)
    folder = _out_folder(out_dir, annotations_path)
    files = ProxyFiles(
        folder / "train.json", folder / "val.json", _report(document, train_document, val_document)
    )
    write_together({files.train_path: train_document, files.val_path: val_document})
    return files


def sample_proxy(
    document: Document, train_images: int, val_images: int, seed: int
) -> tuple[Document, Document]:
    """Draw two disjoint subsets of a COCO-format document that keep its class and size shares.

    The subsets hold exactly ``train_images`` and ``val_images`` images with all their annotations,
    in the document's order, and everything else that the document holds. They share the document's
    entries. The same document and seed give the same subsets. Raises :class:`WrongUse` as
    :func:`check_sizes` does.
    """
    check_sizes(train_images, val_images, len(document["images"]))
    contents = _Contents.of(document)
    generator = np.random.default_rng(seed)
    everything = np.arange(len(document["images"]))
    both, _ = _draw_alike(contents, everything, train_images + val_images, generator)
    val, train = _draw_alike(contents, both, val_images, generator)
    return _restrict(document, train), _restrict(document, val)


def check_disjoint(train: Split, val: Split) -> None:
    """Raise :class:`WrongUse` if two splits share an image: a file of the same folder and name."""
    train_files, val_files = (
        {os.path.normpath(os.path.join(split.images, image["file_name"])): image["file_name"]
         for image in read_document(split)["images"]}
        for split in (train, val)
    )  # fmt: skip
    shared = [name for file, name in val_files.items() if file in train_files]
    if shared:
        raise WrongUse(
            f"{train.annotations} and {val.annotations} share {len(shared)} images (first: "
            f"{shared[0]}): train and validation images must be different ones; draw both with "
            "`detkds proxy`"
        )


def class_size_histogram(document: Mapping[str, Any]) -> np.ndarray:
    """Boxes by class, in the order of category ids, and size class; shape (classes, 3).

    Crowds and empty annotations (area 0) do not count, since no detector learns from them.
    """
    _, cells = _boxes(document)
    shape = (len(document["categories"]), len(SIZES))
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def deviation(histogram: np.ndarray, reference: np.ndarray) -> float:
    """Total variation distance of two histograms' shares, in [0, 1]."""
    shares, expected = (counts / max(counts.sum(), 1) for counts in (histogram, reference))
    return float(np.abs(shares - expected).sum() / 2)


@dataclass(frozen=True)
class _Contents:
    """The buckets of every image's boxes, by their numbers.

    A box falls into four buckets: of its class and size, of its class, of its size, and of all
    boxes. So the subsets keep the shares of classes and of sizes even if few boxes have a class and
    a size. An image without boxes falls into the last bucket.
    """

    buckets_of: list[np.ndarray]
    buckets: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> _Contents:
        images, cells = _boxes(document)
        classes, sizes = len(document["categories"]), len(SIZES)
        by_class, by_size = classes * sizes, classes * sizes + classes
        all_boxes, no_boxes = by_size + sizes, by_size + sizes + 1
        of_box = np.stack(
            [
                cells,
                by_class + cells // sizes,
                by_size + cells % sizes,
                np.full_like(cells, all_boxes),
            ],
            axis=1,
        )[np.argsort(images, kind="stable")]
        ends = np.cumsum(np.bincount(images, minlength=len(document["images"])))
        parts = [part.ravel() for part in np.split(of_box, ends[:-1])]
        return cls([part if len(part) else np.array([no_boxes]) for part in parts], no_boxes + 1)

    def counts(self, images: np.ndarray) -> np.ndarray:
        """Boxes by image and bucket; shape (images, buckets)."""
        parts = [self.buckets_of[image] for image in images]
        rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        cells = rows * self.buckets + np.concatenate(parts)
        counts = np.bincount(cells, minlength=len(parts) * self.buckets)
        return counts.reshape(len(parts), self.buckets).astype(np.float64)

    def total(self, images: np.ndarray) -> np.ndarray:
        """Boxes by bucket; shape (buckets,)."""
        parts = [self.buckets_of[image] for image in images]
        return np.bincount(np.concatenate(parts), minlength=self.buckets).astype(np.float64)


def _boxes(document: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The image's position and the histogram's cell, 3 x class + size, of every box that counts."""
    image_position = {image["id"]: i for i, image in enumerate(document["images"])}
    category_ids = sorted(category["id"] for category in document["categories"])
    first_cell = {category: len(SIZES) * i for i, category in enumerate(category_ids)}
    images, cells = [], []
    for annotation in document["annotations"]:
        _, _, width, height = annotation["bbox"]
        area = annotation.get("area", width * height)
        if annotation.get("iscrowd") or area <= 0:
            continue
        images.append(image_position[annotation["image_id"]])
        size = SIZES.index(size_class(area))
        cells.append(first_cell[annotation["category_id"]] + size)
    return np.array(images, dtype=np.int64), np.array(cells, dtype=np.int64)


def _draw_alike(
    contents: _Contents, pool: np.ndarray, number: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split ``pool`` into ``number`` images whose counts are like the pool's, and the rest.

    Each round compares all swaps between some chosen and some other images and makes the best swap.
    A swap lowers the sum over buckets of w x (count - expected)², where w is about 1 / expected:
    the chi-square statistic, in which rare and common buckets weigh alike.
    """
    shuffled = generator.permutation(pool)
    chosen, rest = shuffled[:number], shuffled[number:]
    if not len(rest):
        return chosen, rest
    expected = contents.total(pool) * (number / len(pool))
    # With binary fractions and powers of two, the sums below are exact in any order of adding.
    # Every machine then breaks ties alike and draws the same images.
    expected = np.round(expected * 256) / 256
    weights = np.ldexp(1.0, -np.frexp(np.maximum(expected, 1))[1])
    excess = contents.total(chosen) - expected
    rounds_without = 0
    while rounds_without < PATIENCE:
        leaving = generator.integers(len(chosen), size=min(CANDIDATES, len(chosen)))
        coming = generator.integers(len(rest), size=min(CANDIDATES, len(rest)))
        removed, added = contents.counts(chosen[leaving]), contents.counts(rest[coming])
        changes = _changes(excess, weights, removed, added)
        i, j = np.unravel_index(changes.argmin(), changes.shape)
        if changes[i, j] >= 0:
            rounds_without += 1
            continue
        rounds_without = 0
        excess += added[j] - removed[i]
        out, into = leaving[i], coming[j]
        chosen[out], rest[into] = rest[into], chosen[out]
    return chosen, rest


def _changes(
    excess: np.ndarray, weights: np.ndarray, removed: np.ndarray, added: np.ndarray
) -> np.ndarray:
    """The change of the weighted sum of squares by each swap; shape (removed, added)."""
    of_removing = (removed**2 - 2 * removed * excess) @ weights
    of_adding = (added**2 + 2 * added * excess) @ weights
    return of_removing[:, None] + of_adding[None, :] - 2 * (removed * weights) @ added.T


def check_sizes(train_images: int, val_images: int, available: int) -> None:
    """Raise :class:`WrongUse` unless two disjoint subsets of these sizes can be drawn."""
    for setting, number in (("train_images", train_images), ("val_images", val_images)):
        if number < 1:
            raise WrongUse(f"a subset holds at least 1 image, not {number}", f"proxy.{setting}")
        if number > available:
            raise WrongUse(
                f"{number} images asked for, and the set holds only {available}",
                f"proxy.{setting}",
            )
    if train_images + val_images > available:
        raise WrongUse(
            f"{train_images} images to train on and {val_images} others to validate on are "
            f"{train_images + val_images}, and the set holds only {available}",
            "proxy.train_images",
        )


def _out_folder(out_dir: PathLike, annotations_path: PathLike) -> Path:
    folder = Path(out_dir)
    if folder.resolve() == Path(annotations_path).resolve().parent:
        raise WrongUse(
            f"{out_dir}: the annotations lie there, and files of the set could be overwritten; "
            "give the proxy a folder of its own",
            "proxy.folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(
            f"{out_dir}: can't make this folder: {error.strerror}; give a folder", "proxy.folder"
        ) from None
    return folder


def _restrict(document: Document, positions: np.ndarray) -> Document:
    """The document with some of its images and their annotations only."""
    images = [document["images"][position] for position in np.sort(positions)]
    ids = {image["id"] for image in images}
    annotations = [a for a in document["annotations"] if a["image_id"] in ids]
    return {**document, "images": images, "annotations": annotations}


def _report(document: Document, train: Document, val: Document) -> ProxyReport:
    reference = class_size_histogram(document)
    return ProxyReport(*(_report_subset(subset, reference) for subset in (document, train, val)))


def _report_subset(subset: Document, reference: np.ndarray) -> SubsetReport:
    images, _ = _boxes(subset)
    histogram = class_size_histogram(subset)
    shares = histogram / max(histogram.sum(), 1)
    categories = sorted(subset["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    return SubsetReport(
        images=len(subset["images"]),
        images_without_boxes=len(subset["images"]) - len(set(images.tolist())),
        boxes=int(histogram.sum()),
        deviation=deviation(histogram, reference),
        class_shares=dict(zip(names, shares.sum(axis=1).tolist(), strict=True)),
        size_shares=dict(zip(SIZES, shares.sum(axis=0).tolist(), strict=True)),
    )
