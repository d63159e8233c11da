"""A distilled step on a CUDA device: the same losses as on the CPU, in half precision too."""

from __future__ import annotations

import copy

import pytest
import torch
from detkds.detectors import TeacherMemory
from detkds.distillers import DistilledDetector
from thin_detectors import ALL_TERMS, batch, thin_detector, total

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def pair():
    student = thin_detector("retinanet")
    teacher = thin_detector("retinanet", seed=1)
    return DistilledDetector(student, teacher, ALL_TERMS)


def on(device: str, samples: list) -> list:
    return [copy.deepcopy(sample).to(device) for sample in samples]


def test_losses_are_those_of_the_cpu(pair):
    inputs, samples = batch(128)
    pair.eval()
    expected = pair.loss(inputs, on("cpu", samples))
    pair.cuda()
    assert next(pair.teacher.parameters()).is_cuda
    found = pair.loss(inputs.cuda(), on("cuda", samples))
    for name in (name for name in expected if name.startswith("loss_") and "." not in name):
        torch.testing.assert_close(
            torch.as_tensor(total({name: found[name]})).cpu(),
            torch.as_tensor(total({name: expected[name]})),
            rtol=1e-2,
            atol=1e-3,
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_in_half_precision_is_finite(pair, dtype):
    inputs, samples = batch(128)
    pair.cuda().train()
    with torch.autocast("cuda", dtype=dtype):
        loss = total(pair.loss(inputs.cuda(), on("cuda", samples)))
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in pair.student.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_a_memory_stays_on_the_device(pair):
    inputs, samples = batch(128)
    for index, sample in enumerate(samples):
        sample.set_metainfo({"img_path": f"{index}.png"})
    pair.cuda()
    memory = TeacherMemory(pair.teacher, images=2, megabytes=64)
    first = memory(inputs.cuda(), samples, responses=True)
    second = memory(torch.zeros_like(inputs).cuda(), samples, responses=True)
    assert first.features[0].is_cuda
    assert torch.equal(first.features[0], second.features[0])
