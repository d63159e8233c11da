"""PAA's and LAD's assignment: mmdet's heads fit their mixture whatever the losses are."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch
from detkds.detectors import register
from detkds.distillers import DistilledDetector
from mmdet.models.dense_heads import LADHead
from mmdet.models.dense_heads.paa_head import PAAHead
from mmdet.registry import MODELS
from thin_detectors import batch, thin_detector
from torch import Tensor

COVARIANCES = ("diag", "spherical", "tied", "full")
PER_LEVEL, LEVELS = 9, 5
CANDIDATES = PER_LEVEL * LEVELS
CLASSES = 3


class OwnHead(PAAHead):
    """A user's head with a separation scheme of its own, as mmdet's docstring invites to write."""

    def gmm_separation_scheme(self, assignment: Tensor, scores: Tensor, indices: Tensor) -> tuple:
        good = assignment == 0
        return indices[good], indices[~good][:0]


@cache
def head_of(kind: type[PAAHead]) -> Any:
    return kind(
        num_classes=CLASSES,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator={
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": [8, 16, 32, 64, 128],
        },
        loss_cls={"type": "FocalLoss", "use_sigmoid": True},
        loss_bbox={"type": "GIoULoss"},
        loss_centerness={"type": "CrossEntropyLoss", "use_sigmoid": True},
    )


def candidates(count: int) -> Tensor:
    """The indices of an object's candidates among 20 priors a level: the first nine of each."""
    priors = torch.arange(20 * LEVELS)
    return priors[priors % 20 < PER_LEVEL][:count]


def assign(
    losses: Tensor, kind: type[PAAHead] = PAAHead, covariance: str = "diag", method: Any = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """What an image with one object is assigned, ``losses`` being those of its candidates.

    ``method``: another function than the head's own ``paa_reassign``.
    """
    head = head_of(kind)
    head.covariance_type = covariance
    anchors = [torch.zeros(20, 4) for _ in range(LEVELS)]
    places = candidates(len(losses))
    labels = torch.full((20 * LEVELS,), CLASSES)
    labels[places] = 1
    arguments = (
        losses,
        labels,
        torch.ones(len(labels)),
        torch.ones(len(labels), 4),
        places,
        torch.zeros_like(places),
        anchors,
    )
    return head.paa_reassign(*arguments) if method is None else method(head, *arguments)


def alike(size: float, count: int) -> list[Tensor]:
    """Forty cases of ``count`` candidates whose losses are of the same size and nearly the same."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(40, count, generator=generator) * 1e-4
    return [size * (1 + i / 37) + row for i, row in enumerate(noise)]


def fails_in_float32(losses: Tensor, covariance: str) -> bool:
    try:
        assign(losses, PAAHead, covariance, PAAHead.paa_reassign.__wrapped__)
    except ValueError as error:
        return "ill-defined empirical covariance" in str(error)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PAAHead, LADHead, OwnHead])
@pytest.mark.parametrize("covariance", COVARIANCES[:3])
@pytest.mark.parametrize("count", [2, CANDIDATES])
def test_losses_that_mmdet_cannot_fit_in_float32_are_fitted(
    count: int, covariance: str, kind: type[PAAHead]
) -> None:
    """Which cases fail in float32 depends on the CPU's order of summation; on each CPU many do."""
    register()
    cases = alike(30.0, count)
    assert sum(fails_in_float32(losses, covariance) for losses in cases) > 2
    for losses in cases:
        labels, _, _, positives = assign(losses, kind, covariance)
        assert positives == int((labels == 1).sum())


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    "losses",
    [
        *(torch.full((n,), x) for n in (1, 2, CANDIDATES) for x in (0.0, 1.5, 1e3, 1e6, 1e30)),
        torch.tensor([1.0, torch.inf, 2.0, torch.inf]),
        torch.cat([torch.linspace(1, 2, 20), torch.full((25,), 3e38)]),
        torch.tensor([1.0, 60_000.0, 61_000.0], dtype=torch.float16),
        torch.tensor([1.0, 300.0, 302.0], dtype=torch.bfloat16),
    ],
    ids=lambda losses: f"{len(losses)} to {losses.max():g} {losses.dtype}",
)
def test_no_loss_is_too_large_or_too_like_the_others(losses: Tensor, covariance: str) -> None:
    register()
    labels, _, _, positives = assign(losses, covariance=covariance)
    assert positives == int((labels == 1).sum())
    assert positives <= (len(losses) if len(losses) > 1 else 0)  # mmdet fits two or more


def test_candidates_of_an_infinite_loss_are_negatives() -> None:
    register()
    losses = torch.tensor([1.0, 1.2, 0.9, 1.15, torch.inf, 1e30, 5e3])
    labels, *_ = assign(losses)
    # mmdet's scheme: of the better component, those up to the likeliest.
    assert labels[:7].tolist() == [1, CLASSES, 1, CLASSES, CLASSES, CLASSES, CLASSES]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_losses_that_float32_fits_are_assigned_as_before(covariance: str) -> None:
    register()
    good, bad = 0.5 + 0.03 * torch.arange(15), 4 + 0.05 * torch.arange(30)
    shuffled = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(0))
    losses = torch.cat([good, bad])[shuffled]
    found = assign(losses, covariance=covariance)
    before = assign(losses, covariance=covariance, method=PAAHead.paa_reassign.__wrapped__)
    for mine, mmdets in zip(found, before, strict=True):
        torch.testing.assert_close(mine, mmdets, rtol=0, atol=0)
    # The eighth of the good lies at their mean: the eight lowest losses are the positives.
    assert set(losses[found[0][candidates(CANDIDATES)] == 1].tolist()) == set(good[:8].tolist())


def test_a_loss_that_is_not_a_number_leaves_the_assignment_by_overlap() -> None:
    register()
    labels, label_weights, box_weights, positives = assign(torch.tensor([1.0, torch.nan, 2.0]))
    assert positives == 3
    assert labels.tolist() == [1] * 3 + [CLASSES] * 97
    assert bool((label_weights == 1).all())
    assert bool((box_weights == 1).all())


@pytest.mark.parametrize("part", ["atss_cls", "atss_reg", "model"])
def test_a_diverged_student_loses_nan_as_with_any_other_head(part: str) -> None:
    """So a trial is rejected for a loss that is NaN; it does not fail by an error of PAA's."""
    models = [thin_detector("paa"), thin_detector("atss")]
    for model in models:
        with torch.no_grad():
            for parameter in (
                model if part == "model" else getattr(model.bbox_head, part)
            ).parameters():
                parameter.fill_(torch.nan)
    paa, atss = (DistilledDetector(model).train().loss(*batch()) for model in models)

    def diverged(losses: dict[str, Any]) -> bool:
        parts = [p for v in losses.values() for p in (v if isinstance(v, list) else [v])]
        return any(bool(p.isnan()) for p in parts)

    assert diverged(atss)
    assert diverged(paa)


def test_registering_twice_changes_the_head_once() -> None:
    register()
    first = PAAHead.paa_reassign
    register()
    assert PAAHead.paa_reassign is first
    assert not hasattr(first.__wrapped__, "__wrapped__")
    assert MODELS.get("PAAHead").paa_reassign is MODELS.get("LADHead").paa_reassign is first


WITHOUT_SKLEARN = """
import sys
sys.modules["sklearn"] = None
import {module}
assert {loaded} == ("mmdet.models" in sys.modules)
import detkds.detectors
detkds.detectors.register()
from mmdet.models.dense_heads import paa_head
assert paa_head.skm is None
assert hasattr(paa_head.PAAHead.paa_reassign, "__wrapped__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "loaded"), [("detkds.detectors", False), ("detkds.detectors.scripts", True)]
)
def test_nothing_needs_sklearn_before_paa_is_trained(module: str, loaded: bool) -> None:
    code = WITHOUT_SKLEARN.format(module=module, loaded=loaded)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
