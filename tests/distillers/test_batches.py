"""A distiller means the same loss for one large batch, for accumulated ones and for processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cross_pairs import detector
from detkds.detectors import Knowledge, Responses, Signature
from detkds.distillers import DistillationLoss, DistilledDetector, Observation, Pair
from detkds.space import Distiller, SearchSpace, Term
from detkds.space.options import CONSTANT
from kinds import CROSS_KNOWLEDGE, FEATURE_KNOWLEDGE, LABEL, MGD, RESPONSE_KNOWLEDGE
from thin_detectors import batch, copies, still
from torch import Tensor

CHANNELS, CLASSES, IMAGES = 12, 5, 16
SIZES = (16, 8, 4)
STRIDES = (8, 16, 32)
SPACE = SearchSpace.preset("extended")


def observed(seed: int = 0, even: bool = True) -> tuple[Observation, Pair]:
    """16 images; ``even``: equally many boxes, cells under boxes and positives in every image.

    Otherwise the numbers differ, and a quarter of the images has none at all.
    """
    torch.manual_seed(seed)

    def levels(channels: int, flat: bool = False) -> tuple[Tensor, ...]:
        shapes = [(IMAGES, channels, n * n) if flat else (IMAGES, channels, n, n) for n in SIZES]
        spread = torch.rand(channels) * 3 + 0.3  # channels differ, as real maps' do
        found = []
        for shape in shapes:
            level = torch.randn(shape) + 0.5 * torch.randn(
                IMAGES, channels, *[1] * (len(shape) - 2)
            )
            found.append(level * spread.view(1, -1, *[1] * (len(shape) - 2)))
        return tuple(found)

    def positives() -> tuple[Tensor, ...]:
        total = sum(n * n for n in SIZES)
        number = [10] * IMAGES if even else [0] * 4 + torch.randint(0, 20, (IMAGES - 4,)).tolist()
        rows = torch.zeros(IMAGES, total, dtype=torch.bool)
        for row, count in zip(rows, number, strict=True):
            row[torch.randperm(total)[:count]] = True
        return rows.split([n * n for n in SIZES], dim=1)

    def boxes() -> list[Tensor]:
        found = []
        for image in range(IMAGES):
            count = 1 if even else int(torch.randint(0, 4, ())) if image >= 4 else 0
            corner = torch.randint(0, 3, (count, 2)) * 32.0
            found.append(torch.cat([corner, corner + 32], dim=1))
        return found

    student = Knowledge(levels(CHANNELS), levels(CLASSES, True), levels(4, True), positives())
    teacher = Knowledge(levels(CHANNELS), levels(CLASSES, True), levels(4, True))
    student = student.map(lambda t: t.requires_grad_() if t.is_floating_point() else t)
    responses = Responses("dense", CLASSES, (1,) * len(SIZES), "sigmoid", "distances")
    form = Signature("it", STRIDES, (CHANNELS,) * len(SIZES), responses)
    return Observation(student, (teacher,), boxes()), Pair(form, form)


def part(observation: Observation, images: slice) -> Observation:
    """The knowledge of some of the images."""
    return Observation(
        observation.student.map(lambda t: t[images]),
        (observation.teacher.map(lambda t: t[images]),),
        observation.boxes[images],
    )


def gradient(observation: Observation, pair: Pair, term: Term, size: int = IMAGES) -> Tensor:
    """The gradient in all that the student knows, of batches of ``size`` that are accumulated."""
    module = DistillationLoss(Distiller((term,)), pair)
    starts = range(0, IMAGES, size)
    losses = [
        module(part(observation, slice(i, i + size)))[f"loss_{term.knowledge}"] for i in starts
    ]
    return joined(torch.stack(losses).mean(), observation.student)


def joined(loss: Tensor, student: Knowledge) -> Tensor:
    leaves = [*student.features, *student.logits, *student.localization]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def terms(knowledge: str) -> list[Term]:
    """For every option of one knowledge, a term with the option; other slots as in plain L1."""
    *slots, _ = SPACE.slots(knowledge)
    options = SPACE.options[knowledge]
    found = []
    for index, slot in enumerate(slots):
        for option in slot:
            names = [choices[0] for choices in slots]
            names[index] = option
            found.append(SPACE.decode(knowledge, [*names, options.weights[0]]))
    return [t for t in dict.fromkeys(found) if t.schedule == CONSTANT]


ALL = [t for name in (*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE) for t in terms(name)]
TERMS = [t for t in ALL if "mask" not in t.transforms]  # a mask is random
#: Terms that look into a detector, or give its head more to do.
OF_DETECTORS = [
    t
    for name in (*CROSS_KNOWLEDGE, LABEL, MGD)
    for t in terms(name)
    if "after_5" not in t.transforms  # of heads with a layer more
]


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_accumulated_batches_mean_the_same_loss(term: Term) -> None:
    """8 batches of 2 images and one of 16 have the same gradient."""
    observation, pair = observed()
    one, other = (gradient(observation, pair, term, size) for size in (IMAGES, 2))
    if (term.knowledge, term.distance) == ("global", "pearson"):
        assert cosine(one, other) > 0.8, "PKD's statistics are the batch's"
        return
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)


def test_formula_6_over_the_batch_would_not() -> None:
    """What ``norm_n`` was: over two images, the sign of their difference."""

    def catt_scale_norm(norm: Callable[[Tensor], Tensor], size: int) -> Tensor:
        torch.manual_seed(0)
        spread = torch.rand(1, 64, 1, 1) * 3
        student, teacher = spread * torch.randn(2, IMAGES, 64, 8, 8)
        student = student.requires_grad_()
        losses = [
            (norm(student[i : i + size]) - norm(teacher[i : i + size])).abs().mean()
            for i in range(0, IMAGES, size)
        ]
        (found,) = torch.autograd.grad(torch.stack(losses).mean(), student)
        return found.flatten()

    def over_batch(f: Tensor) -> Tensor:
        return (f - f.mean(0)) * (f.var(0, correction=0) + 1e-6).rsqrt()

    def of_sample(f: Tensor) -> Tensor:
        mean, var = f.mean((1, 2, 3), keepdim=True), f.var((1, 2, 3), correction=0, keepdim=True)
        return (f - mean) * (var + 1e-6).rsqrt()

    before, after = (
        cosine(catt_scale_norm(norm, IMAGES), catt_scale_norm(norm, 2))
        for norm in (over_batch, of_sample)
    )
    assert before < 0.1
    assert after > 0.999


RAND = torch.rand


def unmoved(*shape: int, **options: Any) -> Tensor:
    """In place of ``torch.rand``: a mask's numbers (N, 1, H, W), the same for every image."""
    if len(shape) != 4:
        return RAND(*shape, **options)
    n, _, h, w = shape
    return (torch.arange(h * w).view(1, 1, h, w) * 7 % 10 / 10).expand(n, 1, h, w)


uneven = cache(lambda: observed(even=False))


@cache
def detectors(family: str) -> tuple[Any, Any]:
    """A student, and a teacher with a wider head, so that there are adapters."""
    wider = {"model.bbox_head.feat_channels": 24}
    return still(detector(family, 0)), detector(family, 1, **wider)


def of_detector(term: Term, rank: int, processes: int) -> tuple[Tensor, Tensor]:
    """A term's loss, and its gradient in all parameters of a student and of the distillation.

    The loss is that of a process's share of 8 images with a box or two; a quarter has none.
    """
    inputs, samples = copies(*batch(size=64, images=8))
    for sample in samples[:2]:
        sample.gt_instances = sample.gt_instances[:0]
    samples[5].set_metainfo({"img_shape": (48, 44)})
    own = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    pair = detectors("gfl" if term.distance == "kl" else "fcos")
    torch.manual_seed(0)  # of the adapters
    model = DistilledDetector(*pair, Distiller((term,)))
    loss = model.loss(inputs[own], samples[own])[f"loss_{term.knowledge}"]
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss, torch.cat([g.flatten() for g in found])


def of_maps(term: Term, rank: int, processes: int) -> tuple[Tensor, Tensor]:
    """A term's loss, and its gradient in all that a student knows of all images."""
    observation, pair = uneven()
    size = IMAGES // processes
    own = part(observation, slice(rank * size, (rank + 1) * size))
    loss = DistillationLoss(Distiller((term,)), pair)(own)[f"loss_{term.knowledge}"]
    return loss, joined(loss, observation.student)


def results(rank: int, processes: int) -> list[Tensor]:
    """For every term the loss and its gradient, each the mean over processes."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", unmoved)
        for term in (*ALL, *OF_DETECTORS):
            loss, gradient = (of_maps if term in ALL else of_detector)(term, rank, processes)
            mean = torch.cat([loss.detach().view(1), gradient])
            if processes > 1:  # as data-parallel training averages gradients
                torch.distributed.all_reduce(mean)
            found.append(mean / processes)
    return found


def spread(rank: int, join: Path, kept: Path) -> None:
    """One of four processes: first two of them share the images, then all."""
    torch.set_num_threads(1)
    for processes in (2, 4):
        if rank >= processes:
            continue
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{join}{processes}", rank=rank, world_size=processes
        )
        found = results(rank, processes)
        if rank == 0:
            torch.save(found, f"{kept}{processes}")
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_see_one_loss(tmp_path: Path) -> None:
    """Every option of both spaces: 16 images with unlike numbers of boxes and positives.

    One of four processes has neither. Masks, which are random, are the same for all images here.
    """
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detkds.distillers"])  # mmdet is imported once, not 4 times
    torch.multiprocessing.start_processes(
        spread, (tmp_path / "join", tmp_path / "kept"), nprocs=4, start_method="forkserver"
    )
    expected = results(0, 1)
    wrong = []
    for processes in (2, 4):
        found = torch.load(tmp_path / f"kept{processes}")
        for term, mean, whole in zip((*ALL, *OF_DETECTORS), found, expected, strict=True):
            loss, gradient = float(whole[0]), whole[1:]
            apart = float((mean[1:] - gradient).norm() / gradient.norm())
            same = apart < 1e-4 and float(mean[0]) == pytest.approx(loss, rel=1e-4)
            if not same:
                wrong.append(f"{processes} processes, {term}: {mean[0]} not {loss}; {apart}")
    assert not wrong, "\n".join(wrong)
