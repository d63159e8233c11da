"""A frozen teacher that sees every image once: its knowledge of a small set, remembered."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .taps import Knowledge, teacher_knowledge


class TeacherMemory:
    """Remembers a teacher's knowledge of each image, as it lies and flipped, over many epochs.

    Used where ``images`` of them fit into ``megabytes``, judged by the first one; elsewhere every
    batch goes through the teacher. The images of a batch that are new are seen together, so what
    is remembered depends, in its last digits, on which batch an image first came in: that is the
    same for all trainings with one seed, and so for all trials of a search.
    """

    def __init__(self, teacher: Any, *, images: int, megabytes: int, responses: bool) -> None:
        self.teacher = teacher
        self.responses = responses
        self._images, self._bytes = images, megabytes * 2**20
        self._known: dict[tuple, Knowledge] = {}
        self._fits: bool | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, samples: list, *, responses: bool) -> Knowledge:
        """The teacher's knowledge of ``inputs`` (N, 3, H, W); ``samples`` say which images."""
        if self._fits is None:
            self._fits = self._images * _size(self._see(inputs[:1])) <= self._bytes
        if not self._fits:
            return teacher_knowledge(self.teacher, inputs, responses=responses)
        keys = [_key(image, sample) for image, sample in zip(inputs, samples, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            seen = self._see(inputs[new])
            for place, i in enumerate(new):
                self._known[keys[i]] = seen.map(partial(_one, place))
        found = [self._known[key] for key in keys]
        return Knowledge(
            _batch([one.features for one in found]),
            _batch([one.logits for one in found]) if responses else (),
            _batch([one.localization for one in found]) if responses else (),
        )

    def _see(self, images: Tensor) -> Knowledge:
        return teacher_knowledge(self.teacher, images, responses=self.responses)


def _key(image: Tensor, sample: Any) -> tuple:
    meta = sample.metainfo
    return meta["img_path"], meta.get("flip", False), tuple(image.shape)


def _one(place: int, level: Tensor) -> Tensor:
    """One image's part of a level, with memory of its own."""
    return level[place : place + 1].clone()


def _size(knowledge: Knowledge) -> int:
    levels = (*knowledge.features, *knowledge.logits, *knowledge.localization)
    return 2 * sum(level.nbytes for level in levels)  # as it lies, and flipped


def _batch(images: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """From levels per image to images per level."""
    return tuple(torch.cat(level) for level in zip(*images, strict=True))
