"""One look at a batch: what the student and its teachers know of the images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import or_
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import (
    Knowledge,
    Levels,
    Regions,
    Tap,
    TeacherMemory,
    copy_samples,
    loss_of_maps,
    teacher_knowledge,
)


@dataclass(frozen=True)
class Needs:
    """What is read of the two forwards, besides the maps of both."""

    #: Logits and localization of both.
    responses: bool = False
    #: Where the student's own assignment has positives.
    positives: bool = False
    #: The same as a list of places.
    places: bool = False
    #: Layers of the student's dense head, as CrossKD counts them, whose maps are kept.
    positions: frozenset[int] = frozenset()
    #: A second loss of the student's head, on other maps than the neck's.
    second_loss: bool = False

    def __or__(self, other: Needs) -> Needs:
        """What either needs."""
        return Needs(
            self.responses or other.responses,
            self.positives or other.positives,
            self.places or other.places,
            self.positions | other.positions,
            self.second_loss or other.second_loss,
        )

    @staticmethod
    def of(parts: Iterable[Needs]) -> Needs:
        """What any of the parts needs."""
        return reduce(or_, parts, Needs())


@dataclass(frozen=True)
class Observation:
    """What the student and its teachers know of one batch, and the batch's ground truth."""

    #: The student's knowledge, with its gradient.
    student: Knowledge
    #: The knowledge of each teacher that is learned from.
    teachers: tuple[Knowledge, ...] = ()
    #: Ground-truth boxes an image: (n, 4) as x1, y1, x2, y2 in pixels of the teachers' images.
    boxes: list[Tensor] = field(default_factory=list)
    #: The same boxes in pixels of the student's images.
    student_boxes: list[Tensor] = field(default_factory=list)
    #: Classes of the boxes an image: (n,).
    labels: list[Tensor] = field(default_factory=list)
    #: The student's own losses.
    losses: dict[str, Any] = field(default_factory=dict)
    #: The losses of the student's head on other maps than the neck's, if they were asked for.
    second_loss: Callable[[Levels], dict[str, Any]] | None = None
    #: (height, width) of each of the teachers' images in pixels, without its padding. Empty: no
    #: image is padded.
    shapes: Sequence[tuple[int, int]] = ()
    #: The same of the student's images.
    student_shapes: Sequence[tuple[int, int]] = ()

    @property
    def teacher(self) -> Knowledge:
        """The knowledge of the only, or the first, teacher."""
        return self.teachers[0]

    def under(self, index: int) -> Observation:
        """The same batch under one of the teachers alone."""
        return replace(self, teachers=self.teachers[index : index + 1])


class FrozenTeacher:
    """A teacher that gives its knowledge of a student's batch, and never learns.

    A frozen teacher is no module: a student that holds one has none of the teacher's parameters,
    and copies of the student share the teacher. ``memory`` remembers the teacher's knowledge of a
    small set from epoch to epoch.
    """

    def __init__(
        self, model: nn.Module, student: nn.Module, memory: TeacherMemory | None = None
    ) -> None:
        model.eval()  # mmdet's detectors do not all return the model from eval()
        self.model = model.requires_grad_(False)
        #: From the student's normalised pixels to the teacher's.
        self.renormalise = Renormalise(student, model)
        self._ask: Callable[..., Knowledge] = memory or partial(teacher_knowledge, model)

    def __call__(
        self, inputs: Tensor, samples: list, needs: Needs, regions: Regions | None
    ) -> Knowledge:
        """``inputs``: (N, 3, H, W), normalised for the student. ``regions``: the student's."""
        pixels = self.renormalise(inputs)
        return self._ask(pixels, samples, responses=needs.responses, regions=regions)

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        return self


def observe(
    student: Any,
    teachers: Sequence[FrozenTeacher],
    inputs: Tensor,
    samples: list,
    needs: Needs,
    scale: float = 1.0,
) -> Observation:
    """Run the student's training forward once, ask every teacher, and return what all know.

    ``inputs``: (N, 3, H, W), normalised for the student; ``samples``: mmdet's data samples.
    ``scale``: the factor in (0, 1] from the teachers' images to the student's: see
    :func:`student_view`. Teachers' heads run only where responses are needed, their losses never.
    """
    own_inputs, own_samples = student_view(student, inputs, samples, scale)
    # Some heads write into the samples of their loss.
    unused = copy_samples(own_samples) if needs.second_loss else []
    responses = needs.responses or needs.positives
    shapes = shapes_of(own_samples)
    with Tap(
        student,
        responses=responses,
        places=needs.places,
        positions=needs.positions,
        shapes=shapes,
    ) as tap:
        losses = dict(student.loss(own_inputs, own_samples))
    knowledge = tap.knowledge

    def second_loss(maps: Levels) -> dict[str, Any]:
        return loss_of_maps(student, maps, own_inputs, copy_samples(unused))

    return Observation(
        knowledge,
        tuple(teacher(inputs, samples, needs, knowledge.regions) for teacher in teachers),
        [boxes_of(sample.gt_instances) for sample in samples],
        [boxes_of(sample.gt_instances) for sample in own_samples],
        [sample.gt_instances.labels for sample in own_samples],
        losses,
        second_loss if needs.second_loss else None,
        shapes_of(samples),
        shapes,
    )


def shapes_of(samples: list) -> list[tuple[int, int]]:
    """(height, width) of the samples' images in pixels, without their padding."""
    return [(sample.img_shape[0], sample.img_shape[1]) for sample in samples]


def student_view(student: Any, inputs: Tensor, samples: list, scale: float) -> tuple[Tensor, list]:
    """The student's images and their ground truth at ``scale``; at a scale of 1, as given.

    ``inputs``: (N, 3, H, W), the teachers' images, normalised for the student. The student's images
    are the samples' ``student_image``s, which are resized as test images are. They are padded to
    (H, W) times ``scale``, so that the student's maps cover what the teachers' maps cover. Where
    samples have no such image, ``inputs`` are resized, bilinearly and without a filter, as mmdet
    resizes files. A test image that is resized once and an image that is resized twice still differ
    (by 0.6 to 2.5 of 255 grey levels on COCO; with a filter by 4).
    """
    if scale == 1:
        return inputs, samples
    size = [round(side * scale) for side in inputs.shape[-2:]]
    if all("student_image" in sample for sample in samples):
        own = torch.stack(
            [_prepared(student.data_preprocessor, s.student_image, size) for s in samples]
        )
    else:
        own = F.interpolate(inputs, size, mode="bilinear")
    return own, [_student_sample(sample, size, scale) for sample in samples]


def _prepared(preprocessor: Any, image: Tensor, size: list[int]) -> Tensor:
    """An image (3, h, w) normalised by the student's preprocessor and padded to ``size``."""
    pixels = image.flip(0) if _channel_order(preprocessor) else image
    mean, std = (value.to(image.device) for value in _mean_std(preprocessor))
    missing = [size[0] - image.shape[1], size[1] - image.shape[2]]  # -1: rounded the other way
    padding = [0, missing[1], 0, missing[0]]
    return F.pad((pixels.float() - mean) / std, padding, value=preprocessor.pad_value)


def _student_sample(sample: Any, size: list[int], scale: float) -> Any:
    own = copy.deepcopy(sample)
    shape = [round(side * scale) for side in sample.img_shape]
    if "student_image" in own:
        shape = [min(pair) for pair in zip(own.pop("student_image").shape[-2:], size, strict=True)]
    shapes = {"img_shape": tuple(shape), "batch_input_shape": tuple(size)}
    own.set_metainfo({**shapes, "pad_shape": tuple(size)})
    for instances in (own.get("gt_instances"), own.get("ignored_instances")):
        if instances is not None and len(instances):
            instances.bboxes = boxes_of(instances) * scale
            if "masks" in instances:
                instances.masks = instances.masks.resize(tuple(size))
    return own


def boxes_of(instances: Any) -> Tensor:
    """The boxes of mmdet's instances, (n, 4) as x1, y1, x2, y2 in pixels of the input."""
    boxes = instances.bboxes
    return boxes.tensor if hasattr(boxes, "tensor") else boxes


class Renormalise:
    """From the student's normalised pixels to the teacher's: mean, deviation and channel order."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        ours, theirs = student.data_preprocessor, teacher.data_preprocessor
        self.flip = _channel_order(ours) != _channel_order(theirs)
        self.ours, self.theirs = _mean_std(ours), _mean_std(theirs)
        same = all(torch.equal(a, b) for a, b in zip(self.ours, self.theirs, strict=True))
        self.needed = self.flip or not same

    def __call__(self, inputs: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) as the teacher's preprocessor would have given them."""
        if not self.needed:
            return inputs
        mean, std = (value.to(inputs) for value in self.ours)
        pixels = inputs * std + mean
        if self.flip:
            pixels = pixels.flip(1)
        mean, std = (value.to(inputs) for value in self.theirs)
        return (pixels - mean) / std


def _channel_order(preprocessor: Any) -> bool:
    return bool(getattr(preprocessor, "_channel_conversion", False))


def _mean_std(preprocessor: Any) -> tuple[Tensor, Tensor]:
    if not getattr(preprocessor, "_enable_normalize", False):
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return preprocessor.mean.detach().cpu(), preprocessor.std.detach().cpu()
