"""The loss alone, forward and backward, against a plain implementation that walks box by box.

Maps of an 800x1333 image, P3 to P7, 256 channels, two images, for few and for many boxes; the
distiller is the one DetKDS found for one-stage detectors, its feature terms. The plain one does
what the authors' release does, written anew: every term makes its own way from the maps, masks are
filled and crops taken one box at a time, instance features are cut to 14x14 from transformed maps.
Peak memory is what a step holds above the maps themselves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from detkds.detectors import Knowledge, Signature
from detkds.distillers import DistillationLoss, Observation, Pair
from detkds.space import Distiller
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import roi_align

STRIDES = (8, 16, 32, 64, 128)
HEIGHT, WIDTH, CHANNELS, IMAGES = 800, 1333, 256, 2
BOXES = (7, 40)
DISTILLER = Distiller.parse(
    """global: catt → scale_2 → norm_n, l1; fgbg: local_4 → norm_hw, l1
    instance: catt → scale_1 → norm_c, smooth_l1"""
)
CROP = 14
Maps = tuple[Tensor, ...]
Loss = Callable[[Maps, Maps, list[Tensor]], Tensor]


def random_maps(seed: int, learns: bool, device: str) -> Maps:
    torch.manual_seed(seed)
    sizes = [(-(-HEIGHT // s), -(-WIDTH // s)) for s in STRIDES]
    maps = (torch.randn(IMAGES, CHANNELS, h, w, device=device) for h, w in sizes)
    return tuple(level.requires_grad_(learns) for level in maps)


def random_boxes(number: int, device: str) -> list[Tensor]:
    """Random boxes an image, their sides from 1/32 to 1/2 of the image's sides."""
    torch.manual_seed(number)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    boxes = []
    for _ in range(IMAGES):
        sides = size * torch.exp(torch.empty(number, 2).uniform_(-3.466, -0.693))
        corner = torch.rand(number, 2) * (size - sides)
        boxes.append(torch.cat([corner, corner + sides], dim=1).to(device))
    return boxes


def detkds_loss(device: str, compiled: bool = False) -> Loss:
    signature = Signature("model", STRIDES, (CHANNELS,) * len(STRIDES), None)
    module = DistillationLoss(DISTILLER, Pair(signature, signature)).to(device)
    if compiled:
        module.compile()

    def loss(student: Maps, teacher: Maps, boxes: list[Tensor]) -> Tensor:
        losses = module(Observation(Knowledge(student), (Knowledge(teacher),), boxes))
        return torch.stack(list(losses.values())).sum()

    return loss


def plain_loss(student: Maps, teacher: Maps, boxes: list[Tensor]) -> Tensor:
    """The loss of the plain implementation: level by level, box by box."""
    total = student[0].new_zeros(())
    for s, t, stride in zip(student, teacher, STRIDES, strict=True):
        a, b = (plain_norm(F.max_pool2d(plain_attention(side), 2), 0) for side in (s, t))
        total = total + F.l1_loss(a, b)
        inside, outside = plain_masks(s, boxes, stride)
        for mask, weight in ((inside, 1.0), (outside, 0.5)):
            a, b = (plain_norm(plain_patches(side * mask, 4), (2, 3)) for side in (s, t))
            total = total + weight * F.l1_loss(a, b)
        total = total + plain_instances(s, t, boxes, stride)
    return total


def plain_attention(f: Tensor) -> Tensor:
    n, c, _, _ = f.shape
    return f * (c * F.softmax(f.abs().mean((2, 3)) / 0.5, dim=1)).view(n, c, 1, 1)


def plain_norm(f: Tensor, dims: int | tuple[int, int]) -> Tensor:
    mean = f.mean(dims, keepdim=True)
    return (f - mean) / (f.var(dims, keepdim=True, correction=0) + 1e-6).sqrt()


def plain_patches(f: Tensor, n: int) -> Tensor:
    h, w = f.shape[-2:]
    f = F.pad(f, (0, -w % n, 0, -h % n))
    rows = f.chunk(n, dim=2)
    return torch.cat([patch for row in rows for patch in row.chunk(n, dim=3)])


def plain_masks(maps: Tensor, boxes: list[Tensor], stride: int) -> tuple[Tensor, Tensor]:
    n, _, h, w = maps.shape
    inside = maps.new_zeros(n, 1, h, w)
    outside = maps.new_ones(n, 1, h, w)
    for image, image_boxes in enumerate(boxes):
        for x1, y1, x2, y2 in (image_boxes / stride).tolist():
            rows = slice(int(y1), min(int(y2) + 1, h))
            columns = slice(int(x1), min(int(x2) + 1, w))
            inside[image, 0, rows, columns] = 1
            outside[image, 0, rows, columns] = 0
    return inside, outside


def plain_instances(s: Tensor, t: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
    s, t = (plain_norm(plain_attention(side), 1) for side in (s, t))
    losses = []
    for image, image_boxes in enumerate(boxes):
        for box in image_boxes:
            grid = torch.cat([(box[:2] / stride).floor(), (box[2:] / stride).ceil()])[None]
            a, b = (roi_align(side[image : image + 1], [grid], CROP) for side in (s, t))
            losses.append(F.smooth_l1_loss(a, b))
    return torch.stack(losses).mean()


def step(loss: Loss, student: Maps, teacher: Maps, boxes: list[Tensor]) -> None:
    for level in student:
        level.grad = None
    loss(student, teacher, boxes).backward()
    if student[0].is_cuda:
        torch.cuda.synchronize()


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_megabytes(ours: bool, number: int, threads: int, device: str) -> float:
    """Megabytes that one step holds above the maps, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (ours, number, threads, device))


def _peak(ours: bool, number: int, threads: int, device: str) -> float:
    torch.set_num_threads(threads)
    student, teacher = random_maps(0, True, device), random_maps(1, False, device)
    loss = detkds_loss(device) if ours else plain_loss
    boxes = random_boxes(number, device)
    tiny = tuple(level[..., :8, :8].detach().requires_grad_() for level in student)
    step(
        loss, tiny, tuple(level[..., :8, :8] for level in teacher), [b.clamp(max=60) for b in boxes]
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step(loss, student, teacher, boxes)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    before = resident("VmRSS")
    step(loss, student, teacher, boxes)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Megabytes of this process: now (VmRSS), or the maximum so far (VmHWM)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    parser.add_argument("--quick", action="store_true", help="one round, with few boxes")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} threads"
    print(f"torch {torch.__version__}, {where}, {rounds} rounds after one that does not count")
    student, teacher = random_maps(0, True, device), random_maps(1, False, device)
    ours = detkds_loss(device, arguments.compile)
    table = Table(
        "boxes an image", "plain", "detkds", "ratio (least to most)", "peak MB", "plain's"
    )
    for number in BOXES[:1] if arguments.quick else BOXES:
        boxes = random_boxes(number, device)
        pair = [partial(step, loss, student, teacher, boxes) for loss in (plain_loss, ours)]
        times = [[seconds(run) for run in pair] for _ in range(rounds + 1)][1:]
        ratios = [mine / plain for plain, mine in times]
        peaks = [
            peak_megabytes(which, number, arguments.threads, device) for which in (True, False)
        ]
        table.add_row(
            str(number),
            *(f"{1e3 * statistics.median(column):.0f} ms" for column in zip(*times, strict=True)),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            *(f"{peak:.0f}" for peak in peaks),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
