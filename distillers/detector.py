"""``DistilledDetector``: a student that any mmdet training job trains with a distiller."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..detectors import (  # first: it makes mmcv.ops importable, which mmdet imports
    Knowledge,
    Signature,
    Tap,
    TeacherMemory,
    again,
    build_detector,
    dense_head,
    inherit,
    load_weights,
    loss_of_maps,
    model_config,
    signature,
    teacher_knowledge,
    use_float64_in_paa,
    without_pretrained,
)

# isort: split
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS

from ..space import Distiller
from .loss import DistillationLoss

PREFIX = "student."
use_float64_in_paa()  # also for a PAA head that mmdet builds before the DistilledDetector


class _Frozen:
    """Holds the teacher out of sight of the module tree: no parameter, no copy, no checkpoint.

    ``ask`` gives its knowledge of a batch, as :func:`teacher_knowledge` does.
    """

    def __init__(self, model: nn.Module, memory: TeacherMemory | None) -> None:
        model.eval()  # of some of mmdet's detectors it returns nothing
        self.model = model.requires_grad_(False)
        self.ask: Callable[..., Knowledge] = memory or partial(teacher_knowledge, model)

    def __deepcopy__(self, memo: dict) -> _Frozen:
        return self


@MODELS.register_module()
class DistilledDetector(BaseDetector):
    """A student with its distillation loss; predictions and checkpoints are the student's own.

    Args:
        student: an mmdet model config, a config file (``mmdet::…`` or a path) or a built model.
        teacher: the same; not needed without a distiller, nor by one of ``label`` alone.
        distiller: a distiller file's path or content, a :class:`Distiller`, or None for the
            student alone.
        teacher_checkpoint: the teacher's weights, unless the teacher is already built.
        trust_checkpoint: load them even if that runs code from the file.
        memory: remembers the teacher's knowledge of a small set from epoch to epoch.
        inherit: let ``init_weights`` take over the teacher's neck and head, as far as they fit.
        student_scale: shrink training images by this for the student; the teacher sees them whole
            (MTPD, "heterogeneous input resolutions"). Such a pair shares features only.

    The student runs once an iteration: its knowledge is read by hooks from its own training
    forward. The teacher is asked for no more than the terms need, never for its loss, and is in
    no checkpoint, optimizer or average. ``state_dict()`` has the student's own names.

    Raises :class:`WrongUse` for a pair that can't share the knowledge asked for.
    """

    def __init__(
        self,
        student: nn.Module | Mapping[str, Any] | str,
        teacher: nn.Module | Mapping[str, Any] | str | None = None,
        distiller: Distiller | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        teacher_checkpoint: str | None = None,
        trust_checkpoint: bool = False,
        memory: TeacherMemory | None = None,
        inherit: bool = False,
        student_scale: float = 1.0,
    ) -> None:
        built_student = _built(student, "student")
        super().__init__(data_preprocessor=built_student.data_preprocessor)
        self.student: Any = built_student
        self.distillation: DistillationLoss | None = None
        form = _read(distiller)
        self._inherit = inherit and form is not None
        self._scale = student_scale
        self._frozen: _Frozen | None = None
        if form is not None:
            ours, theirs = signature(self.student, "student"), None
            if student_scale != 1:
                ours = ours.features_only
            if teacher is not None:
                built = _built(teacher, "teacher", frozen=True)
                if teacher_checkpoint is not None:
                    load_weights(built, teacher_checkpoint, trust=trust_checkpoint)
                self._frozen, theirs = _Frozen(built, memory), _signature_once(built)
                self._renormalise = Renormalise(self.student, built)
            head = None if teacher is None else dense_head(self.teacher)
            self.distillation = DistillationLoss(form, ours, theirs, head)
        self._register_state_dict_hook(_to_student_names)
        self._register_load_state_dict_pre_hook(_from_student_names, with_module=True)

    @property
    def teacher(self) -> Any:
        return None if self._frozen is None else self._frozen.model

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """The student's own losses and, by name ``loss_<knowledge>``, those of the terms.

        With ``label``, also what the student's head loses on the label-enhanced maps.
        """
        own = shrunk(batch_inputs, batch_data_samples, self._scale)
        if self.distillation is None:
            return self.student.loss(*own)
        loss = self.distillation
        samples = again(own[1]) if loss.needs_labels else []
        # A student's positives come with its responses; CrossKD needs them too.
        responses = loss.needs_responses or bool(loss.positions)
        with Tap(self.student, responses=responses, positions=loss.positions) as tap:
            losses = dict(self.student.loss(*own))
        student = tap.knowledge
        teacher = None
        if loss.needs_teacher:
            assert self._frozen is not None
            teacher = self._frozen.ask(
                self._renormalise(batch_inputs),
                batch_data_samples,
                responses=loss.needs_responses,
                regions=student.regions,
            )
        enhanced: tuple[Tensor, ...] = ()
        if loss.needs_labels:
            labels = [sample.gt_instances.labels for sample in own[1]]
            enhanced = loss.enhanced(student, [boxes_of(sample) for sample in own[1]], labels)
            found = loss_of_maps(self.student, enhanced, own[0], samples)
            losses.update({f"label_{name}": value for name, value in found.items()})
        boxes = [boxes_of(sample) for sample in batch_data_samples]
        losses.update(loss(student, teacher, boxes, enhanced))
        return losses

    def distillation_state(self) -> dict[str, Tensor]:
        """What the distillation itself has learned (the adapters): for resuming, not for use."""
        return {} if self.distillation is None else self.distillation.state_dict()

    def load_distillation_state(self, state: Mapping[str, Tensor]) -> None:
        if self.distillation is not None:
            self.distillation.load_state_dict(state)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list) -> list:
        return self.student.predict(batch_inputs, batch_data_samples)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> Any:
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        return self.student.extract_feat(batch_inputs)

    def init_weights(self) -> None:
        if not self.student.is_init:
            self.student.init_weights()
        if self._inherit and self.teacher is not None:
            inherit(self.student, self.teacher)
            self._inherit = False  # once: what comes after has been trained

    def _apply(self, function: Any, recurse: bool = True) -> DistilledDetector:
        """Moves the teacher along: it is no submodule, but lives on the student's device."""
        super()._apply(function, recurse)
        if self.teacher is not None:
            self.teacher._apply(function)
        return self


def shrunk(inputs: Tensor, samples: list, scale: float) -> tuple[Tensor, list]:
    """Images and their ground truth at another scale; the same ones at a scale of 1."""
    if scale == 1:
        return inputs, samples
    size = [round(side * scale) for side in inputs.shape[-2:]]
    smaller = F.interpolate(inputs, size, mode="bilinear", antialias=True)
    return smaller, [_shrunk_sample(sample, size, scale) for sample in samples]


def _shrunk_sample(sample: Any, size: list[int], scale: float) -> Any:
    own = copy.deepcopy(sample)
    height, width = (round(side * scale) for side in sample.img_shape)
    shapes = {"img_shape": (height, width), "batch_input_shape": tuple(size)}
    own.set_metainfo({**shapes, "pad_shape": tuple(size)})
    for instances in (own.get("gt_instances"), own.get("ignored_instances")):
        if instances is not None and len(instances):
            instances.bboxes = _boxes(instances) * scale
            if "masks" in instances:
                instances.masks = instances.masks.resize(tuple(size))
    return own


class Renormalise:
    """From the student's normalised pixels to the teacher's: mean, std and channel order."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        ours, theirs = student.data_preprocessor, teacher.data_preprocessor
        self.flip = _channel_order(ours) != _channel_order(theirs)
        self.ours, self.theirs = _mean_std(ours), _mean_std(theirs)
        same = all(torch.equal(a, b) for a, b in zip(self.ours, self.theirs, strict=True))
        self.needed = self.flip or not same

    def __call__(self, inputs: Tensor) -> Tensor:
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


def _built(model: Any, name: str, frozen: bool = False) -> Any:
    if isinstance(model, nn.Module):
        return model
    config = model_config(model) if isinstance(model, str) else model
    return build_detector(without_pretrained(config) if frozen else config, name)


def _signature_once(teacher: nn.Module) -> Signature:
    """The teacher's signature; one teacher serves many students, so it is read once."""
    known = teacher.__dict__.get("_detkds_signature")
    if known is None:
        known = teacher.__dict__["_detkds_signature"] = signature(teacher, "teacher")
    return known


def _read(distiller: Any) -> Distiller | None:
    if distiller is None or isinstance(distiller, Distiller):
        return distiller
    if isinstance(distiller, Mapping):
        return Distiller.from_dict(distiller)
    return Distiller.from_json(distiller)


def boxes_of(sample: Any) -> Tensor:
    """An image's ground-truth boxes, (n, 4) as x1, y1, x2, y2 in pixels of the input."""
    return _boxes(sample.gt_instances)


def _boxes(instances: Any) -> Tensor:
    boxes = instances.bboxes
    return boxes.tensor if hasattr(boxes, "tensor") else boxes


def _to_student_names(module: nn.Module, state: dict, prefix: str, metadata: Any) -> None:
    """After ``state_dict()``: the student's own names, nothing of the distillation."""
    for key in list(_under(state, prefix)):
        value = state.pop(key)
        if key.startswith(prefix + PREFIX):
            state[prefix + key[len(prefix + PREFIX) :]] = value


def _from_student_names(module: DistilledDetector, state: dict, prefix: str, *_: Any) -> None:
    """Before ``load_state_dict()``: the student's names get their place; adapters stay."""
    for key in list(_under(state, prefix)):
        if not key.startswith((prefix + PREFIX, prefix + "distillation.")):
            state[prefix + PREFIX + key[len(prefix) :]] = state.pop(key)
    for key, value in module.distillation_state().items():
        state.setdefault(f"{prefix}distillation.{key}", value)


def _under(state: dict, prefix: str) -> Iterator[str]:
    return (key for key in state if key.startswith(prefix))
