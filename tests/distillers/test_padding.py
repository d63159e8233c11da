"""Padding counts in no loss of maps: an image has the same loss whatever it is batched with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from detkds.detectors import Knowledge, Signature
from detkds.distillers import DistillationLoss, Observation, Pair, observe
from detkds.distillers.observe import FrozenTeacher, Needs
from detkds.distillers.padding import parts_of
from detkds.distillers.regions import foreground
from detkds.space import Distiller, SearchSpace, Term
from kinds import FEATURE_KNOWLEDGE
from thin_detectors import batch, thin_detector
from torch import Tensor

CHANNELS, CLASSES = 6, 3
STRIDES = (8, 16, 32)
FORM = Signature("it", STRIDES, (CHANNELS,) * 3, None, classes=CLASSES)
#: (height, width) of a portrait and a landscape; the sides are no multiples of the strides.
SHAPES = ((124, 70), (70, 140))
BOXES = [torch.tensor([[4.0, 9, 44, 60], [20, 50, 69, 121]]), torch.tensor([[60.0, 5, 139, 68]])]
SPACE = SearchSpace.preset("extended")


def terms(knowledge: str) -> list[Term]:
    """For every option of one knowledge, a term with the option; other slots as in plain L1."""
    *slots, weights = SPACE.slots(knowledge)
    found = []
    for index, slot in enumerate(slots):
        for option in slot:
            names = [choices[0] for choices in slots]
            names[index] = option
            found.append(SPACE.decode(knowledge, [*names, weights[0]]))
    plain = [term for term in dict.fromkeys(found) if term.schedule == "constant"]
    return [term for term in plain if "mask" not in term.transforms]  # a mask is random


TERMS = [term for name in FEATURE_KNOWLEDGE for term in terms(name)]


def image(index: int, seed: int) -> list[Tensor]:
    """An image's maps (1, C, H, W): as many cells as it covers."""
    generator = torch.Generator().manual_seed(10 * seed + index)
    sizes = [[-(-side // stride) for side in SHAPES[index]] for stride in STRIDES]
    return [torch.randn(1, CHANNELS, *size, generator=generator).double() for size in sizes]


def padded(images: Sequence[int], seed: int, size: tuple[int, int], fill: float) -> list[Tensor]:
    """The images' maps in a batch of ``size`` (height, width) pixels."""
    levels = []
    for level, stride in enumerate(STRIDES):
        rows, columns = (-(-side // stride) for side in size)
        maps = [image(index, seed)[level] for index in images]
        levels.append(
            torch.cat(
                [
                    F.pad(m, (0, columns - m.shape[3], 0, rows - m.shape[2]), value=fill)
                    for m in maps
                ]
            )
        )
    return levels


def loss_of(
    term: Term, images: Sequence[int], size: tuple[int, int], fill: float = 1e3
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and its gradient in the student's maps."""
    ours = [level.requires_grad_() for level in padded(images, 1, size, fill)]
    theirs = padded(images, 2, size, -fill)
    observation = Observation(
        Knowledge(tuple(ours)),
        (Knowledge(tuple(theirs)),),
        [BOXES[index] for index in images],
        shapes=[SHAPES[index] for index in images],
    )
    (loss,) = DistillationLoss(Distiller((term,)), Pair(FORM, FORM))(observation).values()
    return loss.detach(), list(torch.autograd.grad(loss, ours))


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_what_the_padding_holds_and_how_large_it_is_changes_nothing(term: Term) -> None:
    expected, slopes = loss_of(term, (0, 1), (128, 160))
    for size, fill in (((128, 160), -7.0), ((224, 192), 50.0)):
        found, gradients = loss_of(term, (0, 1), size, fill)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        for gradient, slope, stride in zip(gradients, slopes, STRIDES, strict=True):
            for index, shape in enumerate(SHAPES):
                rows, columns = (-(-side // stride) for side in shape)
                inside = gradient[index, :, :rows, :columns]
                torch.testing.assert_close(inside, slope[index, :, :rows, :columns])
                assert inside.count_nonzero() == gradient[index].count_nonzero()


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_an_image_alone_has_the_loss_that_it_has_with_padding(term: Term) -> None:
    alone, slopes = loss_of(term, (0,), SHAPES[0])
    found, gradients = loss_of(term, (0,), (160, 224))
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
    for gradient, slope in zip(gradients, slopes, strict=True):
        rows, columns = slope.shape[-2:]
        torch.testing.assert_close(gradient[..., :rows, :columns], slope)


@pytest.mark.parametrize(
    "term", [t for t in TERMS if t.knowledge in ("global", "fgbg_area")], ids=str
)
def test_a_mixed_batch_has_the_mean_of_its_images_losses(term: Term) -> None:
    if term.distance == "pearson" and term.knowledge == "global":
        return  # PKD's statistics go over all images
    alone = [loss_of(term, (index,), SHAPES[index])[0] for index in (0, 1)]
    found, _ = loss_of(term, (0, 1), (128, 160))
    torch.testing.assert_close(found, torch.stack(alone).mean(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1", "kl", "cosine", "ssim"])
def test_fgbg_of_a_mixed_batch_weighs_each_image_by_its_cells(distance: str) -> None:
    """On one level, with no transform: the foreground and the background each are one mean."""
    form = Signature("it", STRIDES[:1], (CHANNELS,), None)

    def loss(images: Sequence[int], size: tuple[int, int]) -> Tensor:
        sides = (Knowledge((padded(images, seed, size, 9.0)[0],)) for seed in (1, 2))
        ours, theirs = sides
        observation = Observation(
            ours, (theirs,), [boxes[i] for i in images], shapes=[SHAPES[i] for i in images]
        )
        text = f"fgbg: identity, {distance}"
        return DistillationLoss(Distiller.parse(text), Pair(form, form))(observation)["loss_fgbg"]

    cells = []
    for index, (h, w) in enumerate(SHAPES):
        covered = foreground([BOXES[index]], (-(-h // 8), -(-w // 8)), 8)
        cells.append([covered.sum(), (1 - covered).sum()])
    weights = torch.stack([torch.stack(row) for row in cells]).double()
    everything = [torch.tensor([[0.0, 0, w, h]]) for h, w in SHAPES]
    # An image that is all foreground has a background of nothing.
    boxes = everything
    alone = torch.stack([loss((index,), SHAPES[index]) for index in (0, 1)])
    share = weights.sum(dim=1) / weights.sum()
    torch.testing.assert_close(
        loss((0, 1), (128, 160)), (share * alone).sum(), rtol=1e-5, atol=1e-8
    )


def test_pearson_of_a_mixed_batch_is_of_all_cells() -> None:
    term = Term("global", ("identity",) * 3, "pearson")
    found, _ = loss_of(term, (0, 1), (128, 160))
    expected = 0.0
    for level in range(3):
        ours, theirs = (
            torch.cat([image(index, seed)[level][0].flatten(1) for index in (0, 1)], dim=1)
            for seed in (1, 2)
        )
        rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(ours, theirs, strict=True)]
        expected += 1 - torch.stack(rows).mean().item()
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_a_batch_without_padding_is_compared_as_it_is() -> None:
    maps = torch.randn(2, 3, 4, 5)
    for shapes in ((), ((32, 40), (30, 33))):
        (part,) = parts_of(shapes, (4, 5), 8)
        assert part.cut(maps).data_ptr() == maps.data_ptr()
        assert part.cut(maps).shape == maps.shape
        assert part.images is None


def test_real_batches_tell_their_shapes() -> None:
    student, teacher = thin_detector("retinanet").train(), thin_detector("retinanet", 1)
    inputs, samples = batch()
    samples[1].set_metainfo({"img_shape": (40, 64)})
    seen = observe(student, [FrozenTeacher(teacher, student)], inputs, samples, Needs())
    assert list(seen.shapes) == list(seen.student_shapes) == [(64, 64), (40, 64)]
    half = observe(student, [FrozenTeacher(teacher, student)], inputs, samples, Needs(), scale=0.5)
    assert list(half.shapes) == [(64, 64), (40, 64)]
    assert list(half.student_shapes) == [(32, 32), (20, 32)]
