"""Errors of detections by kind, as TIDE counts them (Bolya et al., ECCV 2020, Section 2.2).

A detection is right as COCO counts at an IoU of 0.5: the best scores first, each takes the free
object of its class that it overlaps most. Every other detection has one kind of error. The kinds
are tried in the order of the paper's own program, which decides where several fit:

- localisation: its class is right, and its largest IoU with such an object is in [0.1, 0.5);
- classification: an IoU of 0.5 or more with an object of another class;
- duplicate: an IoU of 0.5 or more with an object of its class that a better score has taken;
- background: an IoU below 0.1 with every object;
- both: all else, an IoU in [0.1, 0.5) with objects of other classes alone.

An object that no detection is right about is missed, unless a localisation or classification error
is about it. A detection inside of a crowd of its class counts in nothing. Of each image, the 100
detections of the best scores count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
RIGHT, IGNORED = "right", "ignored"
FOREGROUND, BACKGROUND = 0.5, 0.1
MOST = 100
#: The recalls at which COCO reads the precision.
RECALLS = np.linspace(0, 1, 101)

#: Kinds that one correction makes right: of the class, or of the box.
CORRECTED = ("classification", "localisation")


@dataclass(frozen=True)
class Judged:
    """The detections of one image, by falling score, and its objects; boxes are x1, y1, x2, y2.

    ``objects``: the object that a detection is right about, or would be if its error was
    corrected; -1 without one. ``free``: the objects that no detection is right about; ``missed``:
    those of them that no error is about either. A crowd is neither.
    """

    boxes: NDArray
    scores: NDArray
    labels: NDArray
    kinds: NDArray
    objects: NDArray
    truth_labels: NDArray
    crowd: NDArray
    free: NDArray
    missed: NDArray

    def above(self, score: float) -> Judged:
        """The same image with the detections of at least this score."""
        kept = self.scores >= score
        kinds, objects = self.kinds[kept], self.objects[kept]
        free = ~self.crowd & ~_named(objects[kinds == RIGHT], len(self.free))
        missed = free & ~_named(objects[np.isin(kinds, CORRECTED)], len(free))
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            kinds=kinds,
            objects=objects,
            free=free,
            missed=missed,
        )

    def count(self, kind: str) -> int:
        """How many errors of a kind there are."""
        return int(self.missed.sum() if kind == "missed" else (self.kinds == kind).sum())


def judge(
    boxes: NDArray,
    scores: NDArray,
    labels: NDArray,
    truth: NDArray,
    truth_labels: NDArray,
    crowd: NDArray,
) -> Judged:
    """Say of each detection of an image what it is.

    ``boxes`` (n, 4) and ``truth`` (m, 4): x1, y1, x2, y2; ``crowd`` (m,): whether an object of the
    truth is a crowd.
    """
    order = np.argsort(-scores, kind="stable")[:MOST]
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    iou = np.where(crowd, 0, overlaps(boxes, truth))
    within = np.where(crowd, overlaps(boxes, truth, of_first=True), 0)
    same = labels[:, None] == truth_labels
    kinds, objects = np.full(len(boxes), RIGHT, dtype="<U14"), np.full(len(boxes), -1)
    free = ~crowd
    for i in range(len(boxes)):
        possible = np.where(same[i] & free, iou[i], 0)
        if possible.max(initial=0) >= FOREGROUND:
            objects[i] = possible.argmax()
            free[objects[i]] = False
        elif (same[i] & (within[i] >= FOREGROUND)).any():
            kinds[i] = IGNORED
        else:
            kinds[i], objects[i] = _kind(np.where(same[i], iou[i], 0), np.where(same[i], 0, iou[i]))
    found = Judged(boxes, scores, labels, kinds, objects, truth_labels, crowd, free, missed=free)
    return found.above(-np.inf)


def _kind(own: NDArray, others: NDArray) -> tuple[str, int]:
    """The kind of a false detection by its IoUs with objects of its class and of others."""
    best, other = own.max(initial=0), others.max(initial=0)
    if BACKGROUND <= best < FOREGROUND:
        return "localisation", int(own.argmax())
    if other >= FOREGROUND:
        return "classification", int(others.argmax())
    if best >= FOREGROUND:
        return "duplicate", int(own.argmax())
    return ("background" if other < BACKGROUND else "both"), -1


def overlaps(boxes: NDArray, others: NDArray, of_first: bool = False) -> NDArray:
    """IoUs (n, m) of boxes (n, 4) and (m, 4); ``of_first``: the shares of the first's areas."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas, others_areas = ((one[:, 2:] - one[:, :2]).prod(axis=1) for one in (boxes, others))
    whole = areas[:, None] + (0 if of_first else others_areas[None] - shared)
    return shared / np.maximum(whole, 1e-9)


def _named(indices: NDArray, size: int) -> NDArray:
    """True at each of the indices."""
    named = np.zeros(size, dtype=bool)
    named[indices] = True
    return named


@dataclass(frozen=True)
class _Pool:
    """The detections of all images that count, and how many objects each class has."""

    scores: NDArray
    labels: NDArray
    right: NDArray
    positives: NDArray

    def mean_ap(self) -> float:
        """AP at an IoU of 0.5, mean over the classes that have objects or detections.

        A class without objects has an AP of 0, and an empty pool, which has no error, one of 1.
        """
        aps = []
        for label, positives in enumerate(self.positives):
            own = self.labels == label
            if positives:
                aps.append(_ap(self.scores[own], self.right[own], positives))
            elif own.any():
                aps.append(0.0)
        return float(np.mean(aps)) if aps else 1.0


def _ap(scores: NDArray, right: NDArray, positives: int) -> float:
    """COCO's AP: the mean over 101 recalls of the best precision at that recall or more."""
    ranked = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(ranked)
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / positives, RECALLS, side="left")
    return float(np.append(best, 0.0)[places].mean())


def gains(images: Sequence[Judged], classes: int) -> dict[str, float]:
    """What AP at an IoU of 0.5 would gain, in [0, 1], if all errors of a kind were corrected: dAP.

    A classification or localisation error becomes right if its object is free and no better score
    of the same kind is about the object; else, like the other kinds, it is left out. Missed objects
    are left out.
    """
    starts = np.cumsum([0, *(len(one.truth_labels) for one in images)])
    kinds = np.concatenate([one.kinds for one in images])
    scores = np.concatenate([one.scores for one in images])
    labels = np.concatenate([one.labels for one in images])
    pairs = list(zip(images, starts, strict=False))
    objects = np.concatenate([np.where(o.objects < 0, -1, o.objects + s) for o, s in pairs])
    truth, crowd, free, missed = (
        np.concatenate([getattr(one, name) for one in images])
        for name in ("truth_labels", "crowd", "free", "missed")
    )

    # What is about no object has the number -1: it finds the entry behind the last object's.
    named, taken = np.append(truth, 0), np.append(~free, True)

    def mean_ap(kept: NDArray, labels: NDArray, right: NDArray, counted: NDArray) -> float:
        positives = np.bincount(truth[counted], minlength=classes)
        return _Pool(scores[kept], labels[kept], right[kept], positives).mean_ap()

    counts, right = kinds != IGNORED, kinds == RIGHT
    before = mean_ap(counts, labels, right, ~crowd)
    found = {}
    for kind in KINDS:
        own = kinds == kind
        if kind == "missed":
            after = mean_ap(counts, labels, right, ~crowd & ~missed)
        elif kind in CORRECTED:
            best = _firsts(own, objects, scores) & ~taken[objects]
            renamed = np.where(best, named[objects], labels)
            after = mean_ap(counts & (~own | best), renamed, right | best, ~crowd)
        else:
            after = mean_ap(counts & ~own, labels, right, ~crowd)
        found[kind] = max(after - before, 0.0)  # below 0: the 101 recalls fell elsewhere
    return found


def _firsts(own: NDArray, objects: NDArray, scores: NDArray) -> NDArray:
    """Of the detections in ``own``, the best-scored one about each object."""
    places = np.flatnonzero(own)
    places = places[np.argsort(-scores[places], kind="stable")]
    _, first = np.unique(objects[places], return_index=True)
    return _named(places[first], len(own))


def balanced_score(images: Sequence[Judged]) -> float:
    """The score from which on precision and recall balance best: the highest F1 of all classes."""
    scores = np.concatenate([one.scores[one.kinds != IGNORED] for one in images])
    right = np.concatenate([one.kinds[one.kinds != IGNORED] == RIGHT for one in images])
    if not right.any():
        return 1.0
    order = np.argsort(-scores, kind="stable")
    positives = sum(int((~one.crowd).sum()) for one in images)
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + positives)
    return float(scores[order][f1.argmax()])
