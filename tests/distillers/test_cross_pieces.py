"""CrossKD image by image: the losses and gradients of the whole batch, in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import whole_responses
from cross_pairs import LAYERS, detector, rows, spelled_out, through
from detkds.detectors.responses import reading
from detkds.distillers import (
    BOX_DISTANCES,
    DistilledDetector,
    Observation,
    crossing,
    observe,
    pieces,
)
from detkds.distillers.scores import SCORE_DISTANCES
from detkds.space import Distiller
from thin_detectors import batch, still
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@pytest.fixture(params=["one", "two", "all"])
def images_a_piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of three: how many images each piece gets. Only all at once keep the teacher's maps."""
    step, sizes = {"one": (1, [1, 1, 1]), "two": (2, [2, 1]), "all": (3, [3])}[request.param]
    original = pieces.Images.__init__

    def cut(self: Any, *sides: Any, numbers: int) -> None:
        monkeypatch.setattr(pieces, "IMAGES", step * numbers)
        original(self, *sides, numbers=numbers)
        assert self.sizes == sizes

    monkeypatch.setattr(pieces.Images, "__init__", cut)
    if step < 3:
        monkeypatch.setattr(crossing, "KEPT", 0)
        monkeypatch.setattr(pieces, "PIECE", 4000)  # of one image's logits there are more
    return sizes


def seen(model: DistilledDetector, images: int, dtype: torch.dtype) -> Observation:
    """What both know of a padded batch; the student's maps and predictions are leaves."""
    inputs, samples = batch(images=images)
    for sample in samples[::2]:
        sample.set_metainfo({"img_shape": (48, 44)})
    assert model.distillation is not None
    found = observe(
        model.student, model._asked, inputs.to(dtype), samples, model.distillation.needs
    )

    def leaf(tensor: Tensor) -> Tensor:
        cut = tensor.detach()
        return cut.requires_grad_() if cut.is_floating_point() else cut

    return replace(found, student=found.student.map(leaf))


def leaves_of(model: DistilledDetector, observation: Observation) -> list[Tensor]:
    student = observation.student
    known = [
        level for branches in student.hidden.values() for levels in branches for level in levels
    ]
    if student.predictions is not None:
        known += [*student.predictions.logits, *student.predictions.regressed]
    return [*known, *model.distillation.parameters()]


def flat(raw: Tensor, channels: int) -> Tensor:
    """(N, A·C, H, W) as (N, C, H·W·A)."""
    return rows(raw, channels).view(len(raw), -1, channels).transpose(1, 2)


def standardised(own: Tensor, known: Tensor) -> Tensor:
    ours, theirs = (torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True) for x in (own, known))
    ratio = ((theirs[0] + 1e-6) / (ours[0] + 1e-6)).sqrt()
    most = ((theirs[0].mean() + 1e-6) / (ours[0].mean().detach() + 1e-6)).sqrt() * 10
    return (own - ours[1]) * torch.minimum(ratio, most) + theirs[1]


def predicted(
    family: str, model: DistilledDetector, position: int, observation: Observation
) -> list[tuple[Tensor, Tensor]]:
    """Crossed and teacher's predictions (N, C, M) of the whole batch: of classes, then of boxes."""
    student, head = observation.student, model.teacher.bbox_head
    (part,) = model.distillation.parts.values()
    found = []
    for branch in range(2):
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for level, maps in enumerate(observation.teacher.features):
            known = through(head, branch, maps, position % LAYERS)
            handed = [known]
            if position < LAYERS:
                own = part.adapters[branch](student.hidden[position][branch][level])
                handed.insert(0, standardised(own, known))
            for side, x in zip(reversed(sides), reversed(handed), strict=False):
                x = F.relu(x) if position % LAYERS else x
                raw = spelled_out(family, head, branch, level, x, position % LAYERS)
                width = raw.shape[1] // head.prior_generator.num_base_priors[0]
                side.append(flat(raw, width))
        if position == LAYERS:
            own_predictions = student.predictions.logits, student.predictions.regressed
            sides[0].extend(level.flatten(2) for level in own_predictions[branch])
        found.append((torch.cat(sides[0], dim=2), torch.cat(sides[1], dim=2)))
    return found


def plain(
    family: str, model: DistilledDetector, position: int, observation: Observation, distance: str
) -> dict[str, Tensor]:
    """Both losses as they are written down, of the whole batch."""
    student, head = observation.student, model.teacher.bbox_head
    (ours, theirs), boxes = predicted(family, model, position, observation)
    counted = torch.cat(student.counted, dim=1).unsqueeze(1)
    assert not counted.all()
    positives = torch.cat(student.positives, dim=1)
    assert positives.any()
    if distance == "quality_focal":
        logits = whole_responses.quality_focal(ours, theirs, counted, positives)
    else:
        logits = whole_responses.DISTANCES[distance](ours, theirs, counted)
    weight = (theirs.sigmoid().amax(dim=1, keepdim=True) * counted).flatten()
    divisor = positives.sum()
    if family == "gfl":
        sides = [x.transpose(1, 2).reshape(len(weight), 4, -1).log_softmax(-1) for x in boxes]
        losses = (sides[1].exp() * (sides[1] - sides[0])).sum(-1).mean(-1)
        divisor = weight.sum()
    else:
        read = reading(head)
        assert read is not None
        sides = [read(x).transpose(1, 2) for x in boxes]
        losses = BOX_DISTANCES["giou"](*sides).flatten()
    return {
        "loss_cross_logits": logits,
        "loss_cross_localization": (losses * weight).sum() / divisor,
    }


def distilled(
    family: str, position: int, distance: str = "quality_focal", **teacher: Any
) -> DistilledDetector:
    box = "kl" if family == "gfl" else "giou"
    form = f"cross_logits: after_{position}, {distance}; "
    form += f"cross_localization: after_{position}, {box}"
    pair = still(detector(family, 0)), detector(family, 1, **teacher)
    model = DistilledDetector(*pair, Distiller.parse(form))
    return model.to(torch.float64)


def compare(family: str, model: DistilledDetector, position: int, distance: str) -> None:
    observation = seen(model, 3, torch.float64)
    found = model.distillation(observation)
    expected = plain(family, model, position, observation, distance)
    leaves = leaves_of(model, observation)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)
        gradients, slopes = (
            torch.autograd.grad(
                *(x, leaves), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for x in (found[name], value)
        )
        torch.testing.assert_close(gradients, slopes, rtol=1e-5, atol=1e-9)
        assert max(slope.abs().max() for slope in slopes) > 1e-4
    together = torch.autograd.grad(sum(found.values()), leaves, allow_unused=True)
    slopes = torch.autograd.grad(sum(expected.values()), leaves, allow_unused=True)
    torch.testing.assert_close(together, slopes, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("images_a_piece")
@pytest.mark.parametrize(
    ("family", "position", "teacher"),
    [
        ("retinanet", 0, {}),
        ("retinanet", 1, {"model.bbox_head.feat_channels": 24}),
        ("retinanet", LAYERS, {}),
        ("gfl", 2, {}),
    ],
    ids=["input", "adapters", "predictions", "bins"],
)
def test_losses_and_gradients_are_those_of_the_whole_batch(
    family: str, position: int, teacher: dict[str, Any]
) -> None:
    model = distilled(family, position, **teacher)
    compare(family, model, position, "quality_focal")


@pytest.mark.usefixtures("images_a_piece")
@pytest.mark.parametrize("images_a_piece", ["two"], indirect=True)
@pytest.mark.parametrize("distance", [*SCORE_DISTANCES])
def test_each_distance_is_that_of_the_whole_batch(distance: str) -> None:
    compare("retinanet", distilled("retinanet", 2, distance), 2, distance)


def test_half_precision_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward computes the layers again with the precision of the forward."""
    model = distilled("gfl", 2).to(torch.float32)
    observation = seen(model, 3, torch.float32)
    found = []
    for numbers in (pieces.IMAGES, 1):
        monkeypatch.setattr(pieces, "IMAGES", numbers)
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.distillation(observation)
        loss = sum(losses.values())
        found.append([loss, *torch.autograd.grad(loss, leaves_of(model, observation))])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


class Live(TorchDispatchMode):
    """The most bytes that live at once of all that is made inside of the ``with``."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self._live = {key: x for key, x in self._live.items() if not x[0].expired()}
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return found


def most_bytes(images: int) -> tuple[int, int]:
    """What a step holds beside what both know, and what it leaves: the gradient in the maps."""
    model = distilled("retinanet", 2)
    observation = seen(model, images, torch.float64)
    leaves = leaves_of(model, observation)
    student, theirs = observation.student, observation.teacher.features
    known = [*leaves, *student.counted, *student.positives, *theirs, *model.teacher.parameters()]
    with Live(known) as live:
        sum(model.distillation(observation).values()).backward()
    return live.most, sum(leaf.grad.nbytes for leaf in leaves)


def test_more_images_take_no_more_memory_than_their_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pieces, "IMAGES", 1)
    monkeypatch.setattr(crossing, "KEPT", 0)
    (few, little), (many, much) = most_bytes(2), most_bytes(6)
    assert few > little > 0
    assert many - few < 1.3 * (much - little)  # and an image's means and variances
