"""What distillation adds to a training step: a distilled step (forward and backward, no optimizer)
against the least it could take, the student's own step plus the teacher's forward.

The teacher's forward is its features; for distillers with response terms, its head's outputs too.
Stock mmdet RetinaNets, random weights, random images and boxes. Each round times one distilled step
and its alternative one after the other, taking turns at being first; the first row compares the
alternative with itself and so shows the machine's noise. The last rows compare CrossKD's and SSSD's
steps with PKD's. On a GPU the last column counts how often
a distilled step waits for the device more than its alternative does.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from detkds.configs import distiller_file
from detkds.detectors import (  # before mmdet: detkds.detectors makes mmcv.ops importable
    build_detector,
    model_config,
    without_pretrained,
)
from detkds.distillers import DistilledDetector
from detkds.space import Distiller
from rich.console import Console
from rich.table import Table
from spread import spread
from torch import Tensor

# isort: split
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

CONFIG = "mmdet::retinanet/retinanet_{}_fpn_1x_coco.py"
STUDENT = "r50"
TEACHERS = ("x101-32x4d", "x101-64x4d")
BOXES = 8  # an image
ONE_TERM = (
    "global: identity, pearson × 5",
    "global: catt → scale_2 → norm_n, l1 × 5",
    "fgbg: satt → norm_hw, l2 × 1",
    "instance: norm_c, l2 × 1",
    "logits: softmax_c, kl × 1",
    "localization: sigmoid, ciou × 1",
)
ALL_FIVE = "; ".join(ONE_TERM[1:])
AGAINST_PKD = ("crosskd", "crosskd_pkd", "sssd")
Step = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Seconds that a distilled step and its alternative took, round by round, and how often the

    first waited for the device more than the second (None on a CPU).
    """

    name: str
    alternative: list[float]
    distilled: list[float]
    waits: int | None


def build(name: str, device: torch.device) -> Any:
    model = build_detector(without_pretrained(model_config(CONFIG.format(name))), name)
    model.init_weights()
    return model.to(device)


def random_batch(
    images: int, height: int, width: int, device: torch.device
) -> tuple[Tensor, list[DetDataSample]]:
    """Normalised pixels, and boxes whose sides are 1/16 to 1/2 of the image's sides."""
    size = torch.tensor([width, height], dtype=torch.float32)
    samples = []
    for _ in range(images):
        sides = size * torch.empty(BOXES, 2).uniform_(1 / 16, 1 / 2)
        corner = torch.rand(BOXES, 2) * (size - sides)
        shapes = ("img_shape", "pad_shape", "batch_input_shape")
        sample = DetDataSample(metainfo=dict.fromkeys(shapes, (height, width)))
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + sides], dim=1), labels=torch.randint(80, (BOXES,))
        )
        samples.append(sample.to(device))
    return torch.randn(images, 3, height, width, device=device), samples


def train_step(model: Any, inputs: Tensor, samples: list[DetDataSample], bf16: bool) -> None:
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        losses = model.loss(inputs, samples)
    # Not model.parse_losses, which waits for the device in order to log.
    parts = [v for name, v in losses.items() if "loss" in name]
    total = sum(part.mean() for v in parts for part in (v if isinstance(v, list) else [v]))
    assert isinstance(total, Tensor)
    total.backward()


@torch.no_grad()
def teacher_forward(teacher: Any, inputs: Tensor, responses: bool, bf16: bool) -> None:
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        _teacher_forward(teacher, inputs, responses)


def _teacher_forward(teacher: Any, inputs: Tensor, responses: bool) -> None:
    maps = teacher.extract_feat(inputs)
    if responses:
        teacher.bbox_head(maps)


def step_pairs(
    student: Any, teacher: Any, inputs: Tensor, samples: list[DetDataSample], bf16: bool
) -> dict[str, tuple[Step, Step]]:
    """A distilled step and its alternative, by name."""

    def alternative(responses: bool) -> None:
        train_step(student, inputs, samples, bf16)
        teacher_forward(teacher, inputs, responses, bf16)

    features = partial(alternative, responses=False)
    pairs: dict[str, tuple[Step, Step]] = {"the alternative itself": (features, features)}
    for text in (*ONE_TERM, ALL_FIVE):
        distiller = Distiller.parse(text)
        model = DistilledDetector(student, teacher, distiller).to(inputs.device).train()
        responses = model.distillation.needs.responses
        name = "all five" if text == ALL_FIVE else text
        pairs[name] = (
            partial(train_step, model, inputs, samples, bf16),
            partial(alternative, responses),
        )
    pkd, *others = (
        DistilledDetector(student, teacher, str(distiller_file(name))).to(inputs.device).train()
        for name in ("pkd", *AGAINST_PKD)
    )
    against = partial(train_step, pkd, inputs, samples, bf16)
    for name, model in zip(AGAINST_PKD, others, strict=True):
        pairs[f"{name}, against pkd"] = (partial(train_step, model, inputs, samples, bf16), against)
    return pairs


def seconds(step: Step, student: Any) -> float:
    student.zero_grad(set_to_none=True)
    synchronise()
    started = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - started


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def more_waits(distilled: Step, alternative: Step) -> int | None:
    if not torch.cuda.is_available():
        return None
    distilled()  # the first run of a kernel waits for its loading
    alternative()
    return waits(distilled) - waits(alternative)


def waits(step: Step) -> int:
    """How often a step makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def measure(pairs: dict[str, tuple[Step, Step]], student: Any, rounds: int) -> list[Timing]:
    """The times of all pairs, in interleaved rounds; the first round does not count."""
    timings = [Timing(name, [], [], more_waits(*pair)) for name, pair in pairs.items()]
    for number in range(rounds + 1):
        for timing, (distilled, alternative) in zip(timings, pairs.values(), strict=True):
            turns = [(distilled, timing.distilled), (alternative, timing.alternative)]
            for step, found in turns if number % 2 else reversed(turns):
                found.append(seconds(step, student))
    return [replace(t, alternative=t.alternative[1:], distilled=t.distilled[1:]) for t in timings]


def report(timings: list[Timing]) -> None:
    table = Table("distiller", "alternative", "distilled", "ratio (least to most)", "waits")
    for timing in timings:
        pairs = zip(timing.distilled, timing.alternative, strict=True)
        ratios = [distilled / alternative for distilled, alternative in pairs]
        table.add_row(
            timing.name,
            f"{1e3 * statistics.median(timing.alternative):.0f} ms",
            f"{1e3 * statistics.median(timing.distilled):.0f} ms",
            spread(ratios, ".3f"),
            "-" if timing.waits is None else f"{timing.waits:+d}",
        )
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", choices=TEACHERS, default=TEACHERS[0])
    parser.add_argument("--images", type=int, default=2, help="a batch")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--quick", action="store_true", help="two rounds of images half as large")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 2
        arguments.height, arguments.width = arguments.height // 2, arguments.width // 2
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    precision = "bf16" if arguments.bf16 else "fp32"
    print(
        f"torch {torch.__version__}, {where}, {precision}, {arguments.threads} threads; "
        f"RetinaNet {STUDENT} under {arguments.teacher}; {arguments.images} images of "
        f"{arguments.height}x{arguments.width}; medians of {arguments.rounds} rounds"
    )
    student = build(STUDENT, device).train()
    teacher = build(arguments.teacher, device).eval()
    batch = random_batch(arguments.images, arguments.height, arguments.width, device)
    report(measure(step_pairs(student, teacher, *batch, arguments.bf16), student, arguments.rounds))


if __name__ == "__main__":
    main()
