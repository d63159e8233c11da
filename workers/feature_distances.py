"""How far a student's maps are from the teacher's, place by place, as the papers draw it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor

from ..detectors import Levels, feature_maps, signature
from ..distillers.pairing import pair_levels
from ..space import WrongUse

#: Places of a picture of distances, along its longer side.
PLACES = 40


def standardised(maps: Tensor) -> Tensor:
    """Maps (C, H, W), each channel with a mean of 0 and a standard deviation of 1 over its places.

    A channel that is the same everywhere is 0.
    """
    centred = maps - maps.mean(dim=(1, 2), keepdim=True)
    return centred / (centred.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-6)


def activity(maps: Tensor) -> Tensor:
    """The mean square over the channels of maps (C, H, W): (1, H, W), whatever C is."""
    return maps.square().mean(dim=0, keepdim=True)


def distance_map(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over channels of the squared difference of standardised maps (C, H, W): (H, W).

    Its mean is 2 - 2r, where r is the channels' mean Pearson correlation: 0 for a student that
    differs in scale and offset alone, 2 for one that has nothing in common with the teacher. A
    student's map of another size is resized to the teacher's.
    """
    if student.shape[1:] != teacher.shape[1:]:
        student = F.interpolate(student[None], teacher.shape[1:], mode="bilinear")[0]
    return (standardised(student) - standardised(teacher)).square().mean(dim=0)


@torch.no_grad()
def feature_distances(
    students: Mapping[str, tuple[Any, Any]], teacher: tuple[Any, Any] | None, places: Sequence[int]
) -> dict[str, Any]:
    """The distances of students' maps to the teacher's, on some images.

    ``students``, by role, and ``teacher``: a detector with its weights and the data set of the
    images as it sees them. ``places``: of the images in the data sets.

    Maps with other channels than the teacher's are compared by their activity alone (``compared``).

    Returns ``levels``, by role the mean distance at each stride that both have; and ``pictures``,
    an image's distances (h, w) by role: the mean over the levels, each resized to at most
    :data:`PLACES` places a side. Or ``none``: why there are no distances.
    """
    if teacher is None:
        return {"none": "there is no teacher"}
    first = next(iter(students.values()))[0]
    try:
        signatures = signature(first, "student"), signature(teacher[0], "teacher")
        levels = pair_levels(*signatures)
    except WrongUse as error:
        return {"none": error.message}
    ours, theirs = signatures
    same = all(
        ours.channels[a] == theirs.channels[b]
        for a, b in zip(levels.student, levels.teacher, strict=True)
    )
    means: dict[str, dict[int, list[float]]] = {role: defaultdict(list) for role in students}
    pictures: list[dict[str, Any]] = []
    for place in places:
        known = _maps(*teacher, place, levels.teacher)
        pictures.append({})
        for role, (model, dataset) in students.items():
            own = _maps(model, dataset, place, levels.student)
            found = {
                stride: distance_map(*((a, b) if same else (activity(a), activity(b)))).cpu()
                for stride, a, b in zip(levels.strides, own, known, strict=True)
                if b[0].numel() > 1  # a single place differs from no other
            }
            for stride, one in found.items():
                means[role][stride].append(one.mean().item())
            if found:
                pictures[-1][role] = _picture(list(found.values()))
    if not all(pictures):
        return {"none": "the images are so small that maps have one place"}
    return {
        "compared": "channels" if same else "activity",
        "levels": {
            role: {str(stride): round(fmean(values), 3) for stride, values in by_stride.items()}
            for role, by_stride in means.items()
        },
        "pictures": pictures,
    }


def _maps(model: Any, dataset: Any, place: int, levels: Sequence[int]) -> list[Tensor]:
    """Maps (C, H, W) of an image at some levels, without what lies in the padding."""
    batch = model.data_preprocessor(pseudo_collate([dataset[place]]), False)
    inputs, samples = batch["inputs"], batch["data_samples"]
    maps: Levels = feature_maps(model, inputs, samples)
    shares = [a / b for a, b in zip(samples[0].img_shape[:2], inputs.shape[-2:], strict=True)]
    found = []
    for level in levels:
        height, width = (
            max(1, round(side * share))
            for side, share in zip(maps[level].shape[-2:], shares, strict=True)
        )
        found.append(maps[level][0, :, :height, :width].float())
    return found


def _picture(levels: Sequence[Tensor]) -> list[list[float]]:
    """The mean over levels (H, W), the finest's size or smaller."""
    height, width = max((one.shape for one in levels), key=lambda shape: shape[0] * shape[1])
    shrunk = min(1.0, PLACES / max(height, width))
    size = max(1, round(height * shrunk)), max(1, round(width * shrunk))
    resized = [
        F.adaptive_avg_pool2d(one[None], size)[0]
        if one.shape[0] >= size[0] and one.shape[1] >= size[1]
        else F.interpolate(one[None, None], size, mode="bilinear")[0, 0]
        for one in levels
    ]
    return [[round(one, 2) for one in row] for row in torch.stack(resized).mean(dim=0).tolist()]
