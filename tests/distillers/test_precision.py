"""Half precision and accumulated gradients, through whole training steps, for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from detkds.distillers import KINDS, DistilledDetector
from detkds.space import Distiller
from mmdet.structures import DetDataSample
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.structures import InstanceData
from thin_detectors import CLASSES, still, thin_detector
from torch import Tensor, nn

#: A term of every kind of knowledge, none with random numbers.
TERMS = {
    "global": "catt → scale_2 → norm_n, l1",
    "fgbg": "local_4 → norm_hw, l1",
    "instance": "catt → norm_c, smooth_l1",
    "logits": "norm_n, pearson",
    "localization": "sigmoid, ciou",
    "cross_logits": "after_1, quality_focal",
    "cross_localization": "after_1, giou",
    "label": "identity, jensen_shannon",
    "mgd": "identity, l2",
    "fgbg_area": "norm_c, l2",
}
HEAD = {"model.bbox_head.stacked_convs": 2}
STEPS = 3


def test_every_kind_is_here() -> None:
    assert set(TERMS) == set(KINDS)


def distilled(kind: str) -> DistilledDetector:
    """A thin RetinaNet under another; maps do not depend on the other images of a batch.

    The heads' scores differ from place to place, as trained heads' do. Those of a fresh head differ
    by less than half precision resolves, and ``norm_n`` of them would be of rounding alone.
    """
    student, teacher = (thin_detector("retinanet", seed, **HEAD) for seed in (0, 1))
    for model in (student, teacher):
        nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.1)
    torch.manual_seed(2)
    return DistilledDetector(still(student), teacher, Distiller.parse(f"{kind}: {TERMS[kind]}"))


def data(images: int, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """What a loader gives: pixels of images, all with boxes in the same places."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, 64, 64), generator=generator, dtype=torch.uint8)
    samples = []
    for index in range(images):
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "img_id": index})
        boxes = torch.tensor([[4.0, 6, 40, 44], [30, 28, 62, 60]], device=device)
        labels = torch.tensor([1, 3], device=device) % CLASSES
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    return {"inputs": list(pixels.to(device)), "data_samples": samples}


class CpuAmp(OptimWrapper):
    """mmengine's AmpOptimWrapper, which refuses to run without a GPU, on a CPU."""

    def __init__(self, dtype: torch.dtype, **options: Any) -> None:
        super().__init__(**options)
        self.dtype = dtype

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast("cpu", self.dtype):
            yield


def sgd(model: DistilledDetector) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)


@cache
def trained(kind: str, device: str, wrapper: Any = OptimWrapper) -> list[float]:
    """The distillation loss of each step of a short training."""
    model = distilled(kind).to(device)
    steps = wrapper(optimizer=sgd(model))
    found = []
    for step in range(STEPS):
        logs = model.train_step(data(2, device, seed=step), steps)
        assert all(torch.as_tensor(value).isfinite().all() for value in logs.values())
        found.append(float(logs[f"loss_{kind}"]))
    assert all(p.isfinite().all() for p in model.parameters())
    return found


def near(found: list[float], expected: list[float]) -> None:
    assert found != expected, "in another precision"
    assert found == pytest.approx(expected, rel=0.2, abs=2e-3)  # bfloat16 has 8 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", TERMS)
def test_a_training_in_half_precision_on_a_cpu(kind: str, dtype: torch.dtype) -> None:
    found = trained(kind, "cpu", lambda optimizer: CpuAmp(dtype, optimizer=optimizer))
    near(found, trained(kind, "cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", TERMS)
def test_a_training_under_amp_on_a_gpu(kind: str, dtype: str) -> None:
    scale = {"init_scale": 2.0**10}  # none of the few steps is lost to finding the scale
    wrapper = lambda optimizer: AmpOptimWrapper(scale, dtype, optimizer=optimizer)  # noqa: E731
    near(trained(kind, "cuda", wrapper), trained(kind, "cuda"))


def gradient(kind: str, batches: list[dict[str, Any]]) -> Tensor:
    """What accumulated batches change the weights by, of the distillation alone."""
    model = distilled(kind)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    steps = OptimWrapper(optimizer, accumulative_counts=len(batches))
    steps.initialize_count_status(model, 0, len(batches))
    for batch in batches:
        with steps.optim_context(model):
            prepared = model.data_preprocessor(batch, training=True)
            losses = model.loss(prepared["inputs"], prepared["data_samples"])
        steps.update_params(losses[f"loss_{kind}"])
    return before - torch.cat([p.detach().flatten() for p in model.parameters()])


def halves(batch: dict[str, Any]) -> list[dict[str, Any]]:
    parts = (slice(0, 4), slice(4, 8))
    return [{name: values[part] for name, values in batch.items()} for part in parts]


def apart(kind: str) -> float:
    """The distance of two batches of 4, accumulated, to one of 8, in shares of the gradient."""
    one, two = gradient(kind, [data(8)]), gradient(kind, halves(data(8)))
    assert one.norm() > 1e-6
    return float((one - two).norm() / one.norm())


@pytest.mark.parametrize("kind", TERMS)
def test_accumulated_gradients_are_those_of_one_larger_batch(kind: str) -> None:
    """All images have as many positives and as many cells under boxes."""
    if kind in ("cross_logits", "cross_localization"):
        assert apart(kind) < 0.3, "the crossed maps have the mean and deviation of a batch"
    else:
        assert apart(kind) < 1e-5
