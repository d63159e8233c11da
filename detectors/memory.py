"""A frozen teacher that sees every image once: its knowledge of a small set, remembered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .taps import Knowledge, teacher_knowledge


class TeacherMemory:
    """Remembers a teacher's knowledge of each image, as it lies and flipped, over many epochs.

    Used where ``images`` of them fit into ``megabytes``, judged by the first one; elsewhere every
    batch goes through the teacher. Images are seen one at a time, so that what is remembered does
    not depend on which batch an image first came in: a trial scores the same in any order.
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
        found = [self._recall(inputs[i : i + 1], sample) for i, sample in enumerate(samples)]
        return Knowledge(
            _batch([one.features for one in found]),
            _batch([one.logits for one in found]) if responses else (),
            _batch([one.localization for one in found]) if responses else (),
        )

    def _see(self, image: Tensor) -> Knowledge:
        return teacher_knowledge(self.teacher, image, responses=self.responses)

    def _recall(self, image: Tensor, sample: Any) -> Knowledge:
        meta = sample.metainfo
        key = (meta["img_path"], meta.get("flip", False), tuple(image.shape))
        if key not in self._known:
            self._known[key] = self._see(image)
        return self._known[key]


def _size(knowledge: Knowledge) -> int:
    levels = (*knowledge.features, *knowledge.logits, *knowledge.localization)
    return 2 * sum(level.nbytes for level in levels)  # as it lies, and flipped


def _batch(images: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """From levels per image to images per level."""
    return tuple(torch.cat(level) for level in zip(*images, strict=True))
