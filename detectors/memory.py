"""A frozen teacher that sees every image once: its knowledge of a small set, remembered."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .families import dense_head
from .responses import Regions
from .taps import Knowledge, at_regions, teacher_knowledge


class TeacherMemory:
    """Remembers a teacher's knowledge of each image, as it lies and flipped, over many epochs.

    Used where ``images`` of them fit into ``megabytes``, judged by the first one; elsewhere every
    batch goes through the teacher. Where they turn out larger (an image padded to the others of
    its batch comes in several shapes) nothing is added once the megabytes are full. The images of
    a batch that are new are seen together, so what is remembered depends, in its last digits, on
    which batch an image first came in: that is the same for all trainings with one seed, and so
    for all trials of a search.
    """

    def __init__(self, teacher: Any, *, images: int, megabytes: int) -> None:
        self.teacher = teacher
        self._dense = dense_head(teacher) is not None
        self._images, self._free = images, megabytes * 2**20
        self._known: dict[tuple, Knowledge] = {}
        self._fits: bool | None = None

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, samples: list, *, responses: bool, regions: Regions | None = None
    ) -> Knowledge:
        """As :func:`teacher_knowledge`; answers for ``regions`` are given anew every time."""
        if self._fits is None:
            first = self._see(inputs[:1], samples[:1])
            self._fits = 2 * self._images * _size(first) <= self._free  # as it lies, and flipped
        if not self._fits:
            return teacher_knowledge(
                self.teacher, inputs, samples, responses=responses, regions=regions
            )
        known = self._recall(inputs, samples, responses and self._dense)
        return at_regions(self.teacher, known, regions) if responses and regions else known

    def _recall(self, inputs: Tensor, samples: list, responses: bool) -> Knowledge:
        keys = [_key(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        known = {key: self._known[key] for key in keys if key in self._known}
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            seen = self._see(inputs[new], [samples[i] for i in new])
            for place, i in enumerate(new):
                known[keys[i]] = one = seen.map(partial(_one, place))
                if _size(one) <= self._free:
                    self._free -= _size(one)
                    self._known[keys[i]] = one
        found = [known[key] for key in keys]
        return Knowledge(
            _batch([one.features for one in found]),
            _batch([one.logits for one in found]) if responses else (),
            _batch([one.localization for one in found]) if responses else (),
        )

    def _see(self, images: Tensor, samples: list) -> Knowledge:
        return teacher_knowledge(self.teacher, images, samples, responses=self._dense)


def _key(image: Tensor, sample: Any) -> tuple:
    meta = sample.metainfo
    return meta["img_path"], meta.get("flip", False), tuple(image.shape)


def _one(place: int, level: Tensor) -> Tensor:
    """One image's part of a level, with memory of its own."""
    return level[place : place + 1].clone()


def _size(knowledge: Knowledge) -> int:
    levels = (*knowledge.features, *knowledge.logits, *knowledge.localization)
    return sum(level.nbytes for level in levels)


def _batch(images: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """From levels per image to images per level."""
    return tuple(torch.cat(level) for level in zip(*images, strict=True))
