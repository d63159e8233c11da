"""A distiller means the same loss for one large batch, for accumulated ones and for processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detkds.detectors import Knowledge, Responses, Signature
from detkds.distillers import DistillationLoss, Observation, Pair
from detkds.space import Distiller, SearchSpace, Term
from detkds.space.options import CONSTANT
from kinds import FEATURE_KNOWLEDGE, RESPONSE_KNOWLEDGE
from torch import Tensor

CHANNELS, CLASSES, IMAGES = 12, 5, 16
SIZES = (16, 8, 4)
STRIDES = (8, 16, 32)
SPACE = SearchSpace.preset("extended")


def observed(seed: int = 0, even: bool = True) -> tuple[Observation, Pair]:
    """16 images; ``even``: equally many boxes, cells under boxes and positives in every image."""
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
        number = [10] * IMAGES if even else torch.randint(0, 20, (IMAGES,)).tolist()
        rows = torch.zeros(IMAGES, total, dtype=torch.bool)
        for row, count in zip(rows, number, strict=True):
            row[torch.randperm(total)[:count]] = True
        return rows.split([n * n for n in SIZES], dim=1)

    def boxes() -> list[Tensor]:
        found = []
        for _ in range(IMAGES):
            count = 1 if even else int(torch.randint(0, 4, ()))
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
    plain = [t for t in dict.fromkeys(found) if t.schedule == CONSTANT]
    return [t for t in plain if "mask" not in t.transforms]  # a mask is random


TERMS = [t for name in (*FEATURE_KNOWLEDGE, *RESPONSE_KNOWLEDGE) for t in terms(name)]


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


def spread(rank: int, processes: int, file: str, results: list) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=processes
    )
    observation, pair = observed(even=False)
    size = IMAGES // processes
    own = slice(rank * size, (rank + 1) * size)
    for index, term in enumerate(TERMS):
        module = DistillationLoss(Distiller((term,)), pair)
        loss = module(part(observation, own))[f"loss_{term.knowledge}"]
        mean = joined(loss, observation.student)
        torch.distributed.all_reduce(mean)  # as data-parallel training averages gradients
        if rank == 0:
            results[index] = (mean / processes).numpy()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_see_one_loss(tmp_path: Path) -> None:
    """16 images with unlike numbers of boxes and positives, 2 in each of 8 processes."""
    processes = 8
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detkds.distillers"])  # mmdet is imported once, not 8 times
    with context.Manager() as manager:
        results = manager.list([None] * len(TERMS))
        torch.multiprocessing.start_processes(
            spread,
            (processes, str(tmp_path / "join"), results),
            nprocs=processes,
            start_method="forkserver",
        )
        found = list(results)
    observation, pair = observed(even=False)
    for term, mean in zip(TERMS, found, strict=True):
        expected = gradient(observation, pair, term)
        torch.testing.assert_close(
            torch.from_numpy(mean), expected, rtol=1e-3, atol=1e-5, msg=str(term)
        )
