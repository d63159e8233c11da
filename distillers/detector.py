"""``DistilledDetector``: a student that any mmdet training job trains with a distiller."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..detectors import (  # before mmdet: detkds.detectors makes mmcv.ops importable
    Signature,
    TeacherMemory,
    build_detector,
    dense_head,
    inherit,
    load_weights,
    model_config,
    signature,
    use_float64_in_paa,
    without_pretrained,
)

# isort: split
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS

from ..space import Distiller, WrongUse
from .loss import DistillationLoss, TeacherEnsemble, own_numbers
from .observe import FrozenTeacher, observe, student_view
from .pairing import Pair

PREFIX = "student."
#: A model as a config, a config file (``mmdet::…`` or a path), or built.
AnyModel = nn.Module | Mapping[str, Any] | str

use_float64_in_paa()  # mmdet may build a PAA head before the DistilledDetector


@MODELS.register_module()
class DistilledDetector(BaseDetector):
    """A student with its distillation loss; predictions and checkpoints are the student's own.

    Args:
        student: an mmdet model config, a config file (``mmdet::…`` or a path) or a built model.
        teacher: the same, or a list of several that teach at once (the mean of their distillation
            losses). A distiller of ``label`` alone needs none.
        distiller: a distiller file's path or content, a :class:`Distiller`, or None for the
            student alone. A distiller without an active term is the student alone, too.
        teacher_checkpoint: the teacher's weights, or a list in the order of the teachers; left out
            for teachers that are built already.
        trust_checkpoint: load the weights even if that runs code from the file.
        memory: remembers the teacher's knowledge of a small set from epoch to epoch; a list for
            several teachers.
        inherit: let ``init_weights`` take over the first teacher's neck and head, as far as they
            fit.
        student_scale: the factor from the teachers' training images to the student's (MTPD,
            "heterogeneous input resolutions"). A data sample may hold the student's image as
            ``student_image``, (3, H, W) as loaded: resized from the file, as for testing. Without
            it, the teachers' image is shrunk. Such a pair shares features only.

    The student runs once an iteration: hooks read its knowledge from its own training forward. A
    teacher gives no more than the terms need and never computes its loss. No checkpoint, optimizer
    or average holds a teacher. ``state_dict()`` has the student's own names.

    Raises :class:`WrongUse` for a pair that can't share the knowledge that the distiller asks for.
    """

    def __init__(
        self,
        student: AnyModel,
        teacher: AnyModel | Sequence[AnyModel] | None = None,
        distiller: Distiller | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        teacher_checkpoint: str | Sequence[str] | None = None,
        trust_checkpoint: bool = False,
        memory: TeacherMemory | Sequence[TeacherMemory | None] | None = None,
        inherit: bool = False,
        student_scale: float = 1.0,
    ) -> None:
        built_student = _built(student, "student")
        super().__init__(data_preprocessor=built_student.data_preprocessor)
        self.student: Any = built_student
        self.distillation: DistillationLoss | TeacherEnsemble | None = None
        found = _read(distiller)
        self._inherit = inherit and found is not None
        self._scale = student_scale
        self._teachers: list[FrozenTeacher] = []
        if found is not None:
            checkpoints = _listed(teacher_checkpoint)
            self._teach(found, _listed(teacher), checkpoints, trust_checkpoint, _listed(memory))
        self._register_state_dict_hook(_to_student_names)
        self._register_load_state_dict_pre_hook(_from_student_names, with_module=True)

    def _teach(
        self,
        distiller: Distiller,
        teachers: list[Any],
        checkpoints: list[Any],
        trust: bool,
        memories: list[Any],
    ) -> None:
        """Build the teachers, freeze them, and compose the loss."""
        ours = signature(self.student, "student")
        if self._scale != 1:
            ours = ours.features_only
        if checkpoints and len(checkpoints) != len(teachers):
            raise WrongUse(
                f"{len(checkpoints)} checkpoints for {len(teachers)} teachers: give one each",
                setting="teacher_checkpoint",
            )
        pairs: list[Pair] = []
        memories = memories or [None] * len(teachers)
        for index, (teacher, memory) in enumerate(zip(teachers, memories, strict=True)):
            with own_numbers():
                built = _built(teacher, "teacher", frozen=True)
            if checkpoints:
                load_weights(built, checkpoints[index], trust=trust)
            self._teachers.append(FrozenTeacher(built, self.student, memory))
            pairs.append(Pair(ours, signature_once(built), dense_head(built)))
        self._asked = self._teachers if distiller.needs_teacher else []
        if len(pairs) > 1:
            self.distillation = TeacherEnsemble(distiller, pairs)
        else:
            self.distillation = DistillationLoss(distiller, *(pairs or [Pair(ours)]))

    @property
    def teacher(self) -> Any:
        """The teacher, or the first of several; None without a teacher."""
        return self._teachers[0].model if self._teachers else None

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """The student's own losses and, by name ``loss_<knowledge>``, those of the terms.

        With ``label``, also what the student's head loses on the label-enhanced maps.
        """
        if self.distillation is None:
            own = student_view(self.student, batch_inputs, batch_data_samples, self._scale)
            return self.student.loss(*own)
        observation = observe(
            self.student,
            self._asked,
            batch_inputs,
            batch_data_samples,
            self.distillation.needs,
            self._scale,
        )
        return {**observation.losses, **self.distillation(observation)}

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
            self._inherit = False  # a second call would undo the training

    def _apply(self, function: Any, recurse: bool = True) -> DistilledDetector:
        """Moves the teachers along: they are no submodules, but live on the student's device."""
        super()._apply(function, recurse)
        for teacher in self._teachers:
            teacher.model._apply(function)
        return self


def _built(model: Any, name: str, frozen: bool = False) -> Any:
    if isinstance(model, nn.Module):
        return model
    config = model_config(model) if isinstance(model, str) else model
    return build_detector(without_pretrained(config) if frozen else config, name)


def _listed(value: Any) -> list[Any]:
    """One value or several as a list; an empty list for None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def signature_once(teacher: nn.Module) -> Signature:
    """The teacher's signature, read once: one teacher serves many students."""
    known = teacher.__dict__.get("_detkds_signature")
    if known is None:
        known = teacher.__dict__["_detkds_signature"] = signature(teacher, "teacher")
    return known


def _read(distiller: Any) -> Distiller | None:
    """The distiller, or None if the student trains alone."""
    if isinstance(distiller, Mapping):
        distiller = Distiller.from_dict(distiller)
    elif isinstance(distiller, str | os.PathLike):
        distiller = Distiller.from_json(distiller)
    return distiller if distiller is not None and distiller.active else None


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
