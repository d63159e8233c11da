"""Losses of responses in pieces: the same values and gradients as of whole tensors."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import whole_responses
from detkds.detectors import Knowledge, Levels, Responses, Signature
from detkds.detectors.responses import by_prior
from detkds.distillers import DistillationLoss, Observation, Pair, pieces
from detkds.distillers.pieces import Pieces
from detkds.space import Distiller
from detkds.space.options import EXTENDED
from torch import Tensor

IMAGES, CLASSES, PRIORS = 3, 5, 2
SIZES = ((4, 5), (2, 3), (1, 1))
STRIDES = (8, 16, 32)
RESPONSES = Responses("dense", CLASSES, (PRIORS,) * 3, "sigmoid", "distances")
FORM = Signature("it", STRIDES, (1,) * 3, RESPONSES)
NUMBERS = IMAGES * CLASSES * PRIORS * sum(h * w for h, w in SIZES)


@pytest.fixture(params=[7 * IMAGES * CLASSES * PRIORS, 1, NUMBERS], ids=["7", "1", "whole"])
def positions_a_piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", request.param)


def outputs(channels: int, seed: int) -> Levels:
    """What a head gives: (N, A·channels, H, W) a level."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(IMAGES, PRIORS * channels, *size) for size in SIZES]
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def some(share: float, seed: int) -> Levels:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(IMAGES, h * w * PRIORS) for h, w in SIZES]
    found = [torch.rand(s, generator=generator) < share for s in shapes]
    found[0][0, 0] = True
    return tuple(found)


def read(numbers: Tensor) -> Tensor:
    """Distances of what a head regresses, as a coder's are: not linear, not all above 0."""
    return numbers.exp() - 0.1


class Case:
    """A student, a teacher, what counts, and the positives among it."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.raw = [level.to(dtype).requires_grad_() for level in outputs(CLASSES, 0)]
        self.boxes = [level.to(dtype).requires_grad_() for level in outputs(4, 1)]
        self.counted = some(0.8, 2)
        self.positives = tuple(a & b for a, b in zip(some(0.2, 3), self.counted, strict=True))
        self.teacher = tuple(level.to(dtype) for level in outputs(CLASSES, 4))
        self.theirs = tuple(level.to(dtype) for level in outputs(4, 5))

    def observation(self) -> Observation:
        features = tuple(torch.zeros(IMAGES, 1, *size) for size in SIZES)
        own, others = (
            (tuple(by_prior(x, CLASSES) for x in a), tuple(by_prior(x, 4) for x in b))
            for a, b in ((self.raw, self.boxes), (self.teacher, self.theirs))
        )
        student = Knowledge(features, *own, self.positives, self.counted, read=read)
        return Observation(student, (Knowledge(features, *others, read=read),))

    def whole(self) -> tuple[Tensor, ...]:
        """Logits and boxes of both, what counts and the positives, all levels side by side."""

        def side(levels: Levels, channels: int) -> Tensor:
            return torch.cat([by_prior(level, channels).flatten(2) for level in levels], dim=2)

        counted, positives = (torch.cat(x, dim=1) for x in (self.counted, self.positives))
        logits = side(self.raw, CLASSES), side(self.teacher, CLASSES)
        boxes = (read(side(levels, 4)) for levels in (self.boxes, self.theirs))
        return *logits, *boxes, counted.unsqueeze(1), positives


def loss_of(text: str, observation: Observation) -> Tensor:
    (loss,) = DistillationLoss(Distiller.parse(text), Pair(FORM, FORM))(observation).values()
    return loss


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor], zero: bool = False) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    slopes = torch.autograd.grad(expected, leaves, retain_graph=True)
    for _ in range(2):  # the second time as well
        gradients = torch.autograd.grad(found, leaves, retain_graph=True)
        torch.testing.assert_close(gradients, slopes, rtol=1e-6, atol=1e-9)
    assert zero or any(slope.abs().max() > 1e-4 for slope in slopes)


LOGITS = EXTENDED["logits"]
BOXES = EXTENDED["localization"]


@pytest.mark.usefixtures("positions_a_piece")
@pytest.mark.parametrize(
    ("transform", "distance"), list(product(*LOGITS.transforms, LOGITS.distances))
)
def test_logits_are_those_of_the_whole(transform: str, distance: str) -> None:
    case = Case()
    ours, theirs, _, _, counted, positives = case.whole()
    expected = whole_responses.logits_loss(transform, distance, ours, theirs, counted, positives)
    found = loss_of(f"logits: {transform}, {distance}", case.observation())
    # Numbers that are reshaped to vectors are one position each, and correlate with nothing.
    zero = "reshape" in transform and distance in ("pearson_hw", "correlation")
    compare(found, expected, case.raw, zero)


@pytest.mark.usefixtures("positions_a_piece")
@pytest.mark.parametrize(
    ("transform", "distance"), list(product(*BOXES.transforms, BOXES.distances))
)
def test_localization_is_that_of_all_boxes_masked(transform: str, distance: str) -> None:
    case = Case()
    _, _, ours, theirs, counted, positives = case.whole()
    expected = whole_responses.localization_loss(
        transform, distance, ours, theirs, counted, positives
    )
    found = loss_of(f"localization: {transform}, {distance}", case.observation())
    compare(found, expected, case.boxes)


def test_localization_reads_no_box_but_the_positives() -> None:
    """A broken box elsewhere changes nothing, and has no gradient."""
    case = Case()
    number = sum(int(level.sum()) for level in case.positives)
    seen: list[int] = []

    def counting(numbers: Tensor) -> Tensor:
        seen.append(numbers.shape[2])
        return read(numbers)

    observation = case.observation()
    student = observation.student
    object.__setattr__(student, "read", counting)
    loss_of("localization: sigmoid, ciou", observation)
    assert seen == [number]


def test_half_precision_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 40)
    for dtype in (torch.float16, torch.bfloat16):
        case, wide = Case(dtype), Case(torch.float32)
        for mine, other in zip([*case.raw, *case.teacher], [*wide.raw, *wide.teacher], strict=True):
            other.data.copy_(mine.data)
        found, expected = (loss_of("logits: norm_n, kl", c.observation()) for c in (case, wide))
        torch.testing.assert_close(found, expected)
        assert found.dtype == torch.float32
        gradients, slopes = (
            torch.autograd.grad(loss, c.raw) for loss, c in ((found, case), (expected, wide))
        )
        for gradient, slope in zip(gradients, slopes, strict=True):
            assert gradient.dtype == dtype
            torch.testing.assert_close(gradient.float(), slope, rtol=2e-2, atol=1e-4)


def test_sums_share_one_gradient_and_free_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several sums adds to the same buffer, and after backward nothing is kept."""
    monkeypatch.setattr(pieces, "PIECE", 40)
    made: list[tuple[int, ...]] = []
    zeros = pieces._Form.zeros

    def counted_zeros(form: pieces._Form) -> Tensor:
        made.append(form.size)
        return zeros(form)

    monkeypatch.setattr(pieces._Form, "zeros", counted_zeros)
    case = Case()
    loss = loss_of("logits: norm_n, correlation", case.observation())
    loss.backward()
    assert len(made) == len(SIZES)


@pytest.mark.usefixtures("positions_a_piece")
def test_a_function_of_shared_tensors_has_their_gradient() -> None:
    case = Case()
    scale = torch.full((IMAGES, CLASSES, 1), 1.5, dtype=torch.float64, requires_grad=True)

    def loss(*levels: Tensor) -> Tensor:
        *levels, factor = levels
        side = tuple(by_prior(level, CLASSES) for level in levels)
        found = Pieces(side)
        means = found.each(lambda p: p.sum(dim=2, keepdim=True)) / 52
        return found.each(lambda p, m, f: (f * (p - m)).pow(3).sum(), means, factor)

    assert torch.autograd.gradcheck(loss, (*case.raw, scale))
