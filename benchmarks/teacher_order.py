"""Adaptation costs of five teachers and a student in closed form, against maps trained by SGD.

Thin RetinaNets of random weights on random images; 25 maps, the teachers' 20 directed pairs and the
student's 5. The paper says three GPU hours a student and no number of steps; here SGD gives each
map ``--epochs`` epochs: both models' forward and a step of Adam on the 1x1 convolutions of all
levels, as a distilled training would see them. How close it came is the last column: its loss on
the held-out images over the closed form's. Memory is what the process holds at most beyond its
models, for a few and for four times as many images.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detkds.detectors import build_detector, model_config
from detkds.search.teachers.adaptation import HELD_OUT, Cost, adaptation_costs
from rich.console import Console
from rich.table import Table
from torch import nn

# isort: split
from mmdet.structures import DetDataSample

WIDTHS = {"student": 12, "a": 16, "b": 20, "c": 24, "d": 28, "e": 32}
SIZE, BATCH = 96, 4
RATE = 0.01


def models() -> dict[str, Any]:
    built = {}
    for seed, (name, width) in enumerate(WIDTHS.items()):
        torch.manual_seed(seed)
        options = {
            "model.backbone.base_channels": width,
            "model.backbone.stem_channels": width,
            "model.neck.in_channels": [width * n for n in (1, 2, 4, 8)],
            "model.neck.out_channels": 2 * width,
            "model.bbox_head.in_channels": 2 * width,
        }
        model = build_detector(model_config("detkds::retinanet_r18_thin.py", options))
        model.init_weights()
        built[name] = model.eval()
    return built


def batches(images: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 3, SIZE // 8, SIZE // 8, generator=generator) * 255
    pixels = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").to(torch.uint8)
    shapes = ("img_shape", "pad_shape", "ori_shape", "batch_input_shape")
    sample = DetDataSample(metainfo=dict.fromkeys(shapes, (SIZE, SIZE)))
    return [{"inputs": list(p), "data_samples": [sample] * len(p)} for p in pixels.split(BATCH)]


def costs(built: dict[str, Any], data: list[dict[str, Any]]) -> dict[tuple[str, str], Cost]:
    size = (SIZE, SIZE)
    return adaptation_costs(built, dict.fromkeys(built, size), {size: data})


@torch.no_grad()
def features(model: Any, raw: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    return model.extract_feat(model.data_preprocessor(raw, False)["inputs"])


def trained_map(source: Any, target: Any, data: list[dict[str, Any]], epochs: int) -> float:
    """The loss, on held-out images, of maps that SGD trains on the other images."""
    held = [raw for i, raw in enumerate(data) if i % HELD_OUT == HELD_OUT - 1]
    seen = [raw for i, raw in enumerate(data) if i % HELD_OUT != HELD_OUT - 1]
    pairs = zip(features(source, data[0]), features(target, data[0]), strict=True)
    maps = nn.ModuleList(nn.Conv2d(s.shape[1], t.shape[1], 1) for s, t in pairs)
    optimizer = torch.optim.Adam(maps.parameters(), lr=RATE)

    def loss(raw: dict[str, Any]) -> torch.Tensor:
        levels = zip(maps, features(source, raw), features(target, raw), strict=True)
        return torch.stack([F.mse_loss(m(s), t) for m, s, t in levels]).mean()

    for _ in range(epochs):
        for raw in seen:
            optimizer.zero_grad()
            loss(raw).backward()
            optimizer.step()
    with torch.no_grad():
        return statistics.mean(float(loss(raw)) for raw in held)


def peak_megabytes(images: int, threads: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (images, threads))


def _peak(images: int, threads: int) -> float:
    torch.set_num_threads(threads)
    built, data = models(), batches(images)
    costs(built, data[:5])
    before = resident("VmRSS")
    costs(built, data)
    return max(resident("VmHWM") - before, 0.0)


def resident(field: str) -> float:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5, help="of SGD for each map")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20 images, one epoch")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.epochs = 20, 1
    torch.set_num_threads(arguments.threads)
    built, data = models(), batches(arguments.images)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.images} images of "
        f"{SIZE}x{SIZE}, {arguments.epochs} epochs of SGD a map"
    )
    features(built["a"], data[0])  # the first forward is slower
    started = time.perf_counter()
    found = costs(built, data)
    closed = time.perf_counter() - started
    pairs = [(a, b) for a, b in found if b != "student"]
    started = time.perf_counter()
    reached = {(a, b): trained_map(built[a], built[b], data, arguments.epochs) for a, b in pairs}
    sgd = time.perf_counter() - started
    ratios = [reached[pair] / found[pair].held_out for pair in pairs]
    table = Table("maps", "closed form", "SGD", "times as fast", "SGD's loss / closed form's")
    table.add_row(
        str(len(pairs)),
        f"{closed:.1f} s",
        f"{sgd:.1f} s",
        f"{sgd / closed:.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    )
    console = Console()
    console.print(table)
    few, many = (peak_megabytes(n * arguments.images, arguments.threads) for n in (1, 4))
    console.print(
        f"peak: {few:.0f} MB for {arguments.images} images, {many:.0f} MB for 4 times as many"
    )


if __name__ == "__main__":
    main()
