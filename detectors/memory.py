"""Remembering a frozen teacher's knowledge of a small set, so that it sees each image once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .families import dense_head
from .responses import Regions
from .taps import Knowledge, add_responses, teacher_knowledge


class TeacherMemory:
    """Remembers a teacher's knowledge of each image, flipped and not flipped, over many epochs.

    The first image shows how much memory an image takes. If all ``images``, each in both forms and
    at each of its ``sizes``, would not fit into ``megabytes``, the memory stays empty and every
    batch goes through the teacher. Images may take more than the first one: an image that is padded
    to the size of its batch comes in several shapes. Once the megabytes are full, no more images
    are added.

    The teacher sees the new images of a batch together. So the last digits of its knowledge depend
    on the batch in which an image comes first. That batch is the same in all trainings with the
    same seed, and so in all trials of a search.
    """

    def __init__(self, teacher: Any, *, images: int, megabytes: int, sizes: int = 1) -> None:
        """``images``: the number of images in the set. ``megabytes``: units of 2^20 bytes.

        ``sizes``: the number of sizes that an image may come in.
        """
        self.teacher = teacher
        self._dense = dense_head(teacher) is not None
        self._forms, self._free = 2 * images * sizes, megabytes * 2**20
        self._known: dict[tuple, Knowledge] = {}
        self._fits: bool | None = None

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, samples: list, *, responses: bool, regions: Regions | None = None
    ) -> Knowledge:
        """As :func:`teacher_knowledge`. Responses for ``regions`` are never remembered."""
        if self._fits is None:
            first = self._see(inputs[:1], samples[:1])
            self._fits = self._forms * _size(first) <= self._free
        if not self._fits:
            return teacher_knowledge(
                self.teacher, inputs, samples, responses=responses, regions=regions
            )
        known = self._recall(inputs, samples, responses and self._dense)
        return add_responses(self.teacher, known, regions) if responses and regions else known

    def _recall(self, inputs: Tensor, samples: list, responses: bool) -> Knowledge:
        """The teacher's knowledge of a batch. The teacher sees only the images that are new."""
        keys = [_key(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        known = {key: self._known[key] for key in keys if key in self._known}
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            seen = self._see(inputs[new], [samples[i] for i in new])
            for place, i in enumerate(new):
                known[keys[i]] = image = seen.map(partial(_image_of, place))
                if _size(image) <= self._free:
                    self._free -= _size(image)
                    self._known[keys[i]] = image
        found = [known[key] for key in keys]
        return Knowledge(
            _batch([image.features for image in found]),
            _batch([image.logits for image in found]) if responses else (),
            _batch([image.localization for image in found]) if responses else (),
        )  # what is remembered has been read: ``read`` stays None

    def _see(self, images: Tensor, samples: list) -> Knowledge:
        known = teacher_knowledge(self.teacher, images, samples, responses=self._dense)
        # Of each prior four numbers, not four distributions.
        pairs = zip(known.boxes, known.localization, strict=True)
        boxes = tuple(box.unflatten(2, level.shape[2:]) for box, level in pairs)
        return replace(known, localization=boxes, read=None)


def _key(image: Tensor, sample: Any) -> tuple:
    """What tells views of images apart: the file, the flip, the sizes with and without padding."""
    meta = sample.metainfo
    return meta["img_path"], meta.get("flip", False), tuple(meta["img_shape"]), tuple(image.shape)


def _image_of(place: int, level: Tensor) -> Tensor:
    """One image's part of a level, as a copy, so that the batch's memory can be freed."""
    return level[place : place + 1].clone()


def _size(knowledge: Knowledge) -> int:
    """Bytes that the knowledge takes."""
    levels = (*knowledge.features, *knowledge.logits, *knowledge.localization)
    return sum(level.nbytes for level in levels)


def _batch(images: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """From a tuple of levels for each image to one batch for each level."""
    return tuple(torch.cat(level) for level in zip(*images, strict=True))
