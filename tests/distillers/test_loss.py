"""The composed loss against literal computations on knowledge made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detkds.detectors import Knowledge, Responses, Signature, places_of
from detkds.distillers import (
    BOX_DISTANCES,
    FEATURE_TRANSFORMS,
    MAP_DISTANCES,
    DistillationLoss,
    Observation,
    Pair,
)
from detkds.distillers.regions import foreground
from detkds.space import Distiller, WrongUse
from detkds.space.options import FEATURE_DISTANCES
from kinds import FEATURE_KNOWLEDGE
from test_regions import touched_cells
from torch import Tensor, nn
from torchvision.ops import roi_align

STRIDES, FINER_STRIDES = (8, 16, 32, 64), (4, 8, 16, 32, 64)
CHANNELS, CLASSES, PRIORS = 6, 3, 2
SIZE = 64
RESPONSES = Responses("dense", CLASSES, (PRIORS,) * 4, "sigmoid", "distances")
STUDENT = Signature("student", STRIDES, (CHANNELS,) * 4, RESPONSES)
TEACHER = Signature(
    "teacher", FINER_STRIDES, (CHANNELS,) * 5, replace(RESPONSES, priors=(PRIORS,) * 5)
)
BOXES = [
    torch.tensor([[3.0, 5, 30, 42], [40, 8, 64, 24]]),
    torch.zeros(0, 4),
    torch.tensor([[16.0, 16, 32, 64]]),
]
EMPTY = [torch.zeros(0, 4)] * 3
ALL_TERMS = """global: catt → scale_2 → norm_n, l1 × 5; fgbg: local_4 → norm_hw, l1
    instance: mask → scale_1 → norm_c, smooth_l1; logits: norm_n, pearson
    localization: sigmoid, ciou × 2"""


def knowledge(strides: tuple[int, ...], seed: int, channels: int = CHANNELS) -> Knowledge:
    """Random knowledge of three images, as a detector could have it."""
    generator = torch.Generator().manual_seed(seed)

    def levels(*leading: int, flat: bool = False) -> tuple[Tensor, ...]:
        cells = [SIZE // stride for stride in strides]
        shapes = [(*leading, PRIORS * c * c) if flat else (*leading, c, c) for c in cells]
        return tuple(torch.randn(shape, generator=generator) + 0.3 for shape in shapes)

    return Knowledge(
        levels(3, channels),
        levels(3, CLASSES, flat=True),
        levels(3, 4, flat=True),
        tuple(level > 1 for level in levels(3, flat=True)),
    )


def student_knowledge(channels: int = CHANNELS) -> Knowledge:
    known = knowledge(STRIDES, 1, channels)
    for level in (*known.features, *known.logits, *known.localization):
        level.requires_grad_()
    return known


OURS, THEIRS = student_knowledge(), knowledge(FINER_STRIDES, 2)


def loss_of(
    text: str,
    boxes: list[Tensor] = BOXES,
    student: Knowledge = OURS,
    teacher: Knowledge = THEIRS,
) -> dict[str, Tensor]:
    return composed(text)(Observation(student, (teacher,), boxes))


def composed(
    text: str, student: Signature = STUDENT, teacher: Signature = TEACHER
) -> DistillationLoss:
    return DistillationLoss(Distiller.parse(text), Pair(student, teacher))


def paired_maps() -> list[tuple[Tensor, Tensor]]:
    """The levels of strides 8 to 64; the teacher's first is of stride 4."""
    return list(zip(OURS.features, THEIRS.features[1:], strict=True))


def transformed(names: list[str], student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    for name in names:
        student, teacher = FEATURE_TRANSFORMS[name](student, teacher)
    return student, teacher


def test_global_is_summed_over_the_levels_that_share_a_stride() -> None:
    unread = replace(
        THEIRS, features=(torch.full_like(THEIRS.features[0], torch.nan), *THEIRS.features[1:])
    )
    found = loss_of("global: identity, l1 × 8", teacher=unread)["loss_global"]
    expected = 8 * sum(np.abs((s - t).detach().numpy()).mean() for s, t in paired_maps())
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_transforms_come_in_the_order_attention_scale_normalise() -> None:
    names = ["satt", "scale_2", "min_max"]
    found = loss_of("global: satt → scale_2 → min_max, cosine")["loss_global"]
    expected = sum(MAP_DISTANCES["cosine"](*transformed(names, s, t)) for s, t in paired_maps())
    torch.testing.assert_close(found, expected)


def test_fgbg_is_the_foreground_and_half_the_background() -> None:
    """Each part is a mean over its own cells, here after the cut into 2 x 2 patches."""
    names = ["catt", "local_2", "norm_hw"]
    expected = torch.zeros(())
    for (student, teacher), stride in zip(paired_maps(), STRIDES, strict=True):
        cells = SIZE // stride
        masks = [touched_cells(image, cells, stride) for image in BOXES]
        inside = torch.tensor(np.stack(masks)[:, None], dtype=torch.float32)
        for mask, share in ((inside, 1), (1 - inside, 0.5)):
            ours, theirs = transformed(names, student * mask, teacher * mask)
            part, _ = transformed(["local_2"], mask, mask)
            own = part.expand_as(ours) > 0
            if own.any():
                expected = expected + share * nn.functional.smooth_l1_loss(ours[own], theirs[own])
    found = loss_of("fgbg: catt → local_2 → norm_hw, smooth_l1 × 2")["loss_fgbg"]
    torch.testing.assert_close(found, 2 * expected)


@pytest.mark.parametrize("side", [64, 16])
def test_the_foreground_counts_alike_whatever_its_area(side: int) -> None:
    """Student and teacher differ by 1 everywhere: 1 for the foreground, 1/2 for the background."""
    ones = replace(THEIRS, features=tuple(torch.zeros_like(f) for f in THEIRS.features))
    ours = replace(OURS, features=tuple(torch.ones_like(f) for f in OURS.features))
    boxes = [torch.tensor([[0.0, 0, side, 32]])] * 3
    found = loss_of("fgbg: identity, l1", boxes, ours, ones)["loss_fgbg"]
    covered = STRIDES.count(64)  # a level of one cell, which the box touches, has no background
    assert found.item() == pytest.approx(len(STRIDES) + 0.5 * (len(STRIDES) - covered))


def test_by_area_both_parts_are_means_over_the_whole_map() -> None:
    """The same parts as those of ``fgbg``, which a mask of ones makes means over the whole map."""
    expected = torch.zeros(())
    for (student, teacher), stride in zip(paired_maps(), STRIDES, strict=True):
        mask = foreground(BOXES, student.shape[-2:], stride)
        for part, share in ((mask, 1), (1 - mask, 0.5)):
            expected = expected + share * nn.functional.l1_loss(student * part, teacher * part)
    torch.testing.assert_close(loss_of("fgbg_area: identity, l1")["loss_fgbg_area"], expected)


def test_fgbg_without_boxes_is_half_of_global() -> None:
    plain = loss_of("global: identity, l2; fgbg: identity, l2", EMPTY)
    torch.testing.assert_close(plain["loss_fgbg"], plain["loss_global"] / 2)


def test_instance_compares_the_crops_of_all_boxes() -> None:
    regions = torch.cat([nn.functional.pad(b, (1, 0), value=i) for i, b in enumerate(BOXES)])
    expected = torch.zeros(())
    for (student, teacher), stride in zip(paired_maps(), STRIDES, strict=True):
        sides = [
            roi_align(side, regions, (7, 7), 1 / stride, sampling_ratio=2, aligned=True)
            for side in (student, teacher)
        ]
        expected = expected + MAP_DISTANCES["l2"](*transformed(["catt", "norm_c"], *sides))
    found = loss_of("instance: catt → norm_c, l2 × 0.5")["loss_instance"]
    torch.testing.assert_close(found, expected / 2)


def test_instance_without_boxes_is_a_zero_even_of_an_infinite_map() -> None:
    broken = replace(OURS, features=tuple(f + torch.inf for f in OURS.features))
    found = loss_of("instance: catt → norm_c, l2", EMPTY, broken)["loss_instance"]
    assert found.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(found, OURS.features))


def test_instance_without_boxes_is_a_zero_with_a_graph() -> None:
    found = loss_of("instance: catt → norm_c, l2", EMPTY)["loss_instance"]
    assert found.item() == 0
    gradients = torch.autograd.grad(found, OURS.features)
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_logits_compare_all_positions_of_the_paired_levels_at_once() -> None:
    student, teacher = torch.cat(OURS.logits, dim=2), torch.cat(THEIRS.logits[1:], dim=2)
    expected = np.abs((student.softmax(1) - teacher.softmax(1)).detach().numpy()).mean()
    found = loss_of("logits: softmax_c, l1 × 10")["loss_logits"]
    assert found.item() == pytest.approx(10 * expected, rel=1e-5)


def test_localization_is_the_mean_over_the_students_positives() -> None:
    losses = []
    levels = zip(OURS.localization, THEIRS.localization[1:], OURS.positives, strict=True)
    for ours, theirs, positives in levels:
        for image, position in positives.nonzero().tolist():
            sides = (side[image, :, position].sigmoid() for side in (ours, theirs))
            losses.append(BOX_DISTANCES["giou"](*sides).item())
    found = loss_of("localization: sigmoid, giou × 2")["loss_localization"]
    assert found.item() == pytest.approx(2 * np.mean(losses), rel=1e-5)


def test_localization_without_positives_is_a_zero_with_a_graph() -> None:
    nothing = replace(OURS, positives=tuple(torch.zeros_like(p) for p in OURS.positives))
    found = loss_of("localization: sigmoid, ciou", student=nothing)["loss_localization"]
    assert found.item() == 0
    gradients = torch.autograd.grad(found, OURS.localization)
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_terms_are_weighted_and_stand_for_themselves() -> None:
    """A term's loss is the same alone and beside other terms."""
    together = loss_of(ALL_TERMS.replace("mask → ", ""))
    assert list(together) == [f"loss_{t.knowledge}" for t in Distiller.parse(ALL_TERMS).terms]
    for term in Distiller.parse(ALL_TERMS.replace("mask → ", "")).terms:
        ((name, alone),) = loss_of(str(term)).items()
        torch.testing.assert_close(together[name], alone)
        ((_, single),) = loss_of(str(replace(term, weight=1))).items()
        torch.testing.assert_close(alone, term.weight * single)


def test_a_dropped_term_costs_nothing() -> None:
    """A dropped term has no loss and no parameter, and its knowledge need not be there."""
    text = "global: identity, l1 × 0; instance: catt, l1 × 0; logits: norm_n, l2"
    other = replace(TEACHER, channels=(2,) * 5)
    loss = composed(text, teacher=other)
    assert list(loss.parameters()) == []
    headless = replace(THEIRS, features=())
    assert list(loss(Observation(OURS, (headless,), BOXES))) == ["loss_logits"]
    features_only = composed("global: identity, l1; logits: norm_n, l2 × 0")
    assert not features_only.needs.responses
    maps = Observation(Knowledge(OURS.features), (Knowledge(THEIRS.features),), BOXES)
    assert list(features_only(maps)) == ["loss_global"]


def test_other_channels_meet_through_a_convolution_on_the_students_side() -> None:
    wide = Signature("student", STRIDES, (CHANNELS, 4, CHANNELS, 4), RESPONSES)
    features = tuple(
        torch.randn(3, channels, SIZE // stride, SIZE // stride)
        for channels, stride in zip(wide.channels, STRIDES, strict=True)
    )
    loss = composed("global: identity, l1", wide)
    shapes = [tuple(p.shape) for p in loss.parameters()]
    assert shapes == [(CHANNELS, 4, 1, 1), (CHANNELS,)] * 2, "none where channels are the same"
    maps = Observation(Knowledge(features), (Knowledge(THEIRS.features),), BOXES)
    found = loss(maps)["loss_global"]
    parameters = iter(list(loss.parameters()))
    expected = 0.0
    for ours, theirs in zip(features, THEIRS.features[1:], strict=True):
        if ours.shape[1] != CHANNELS:
            weight, bias = next(parameters)[:, :, 0, 0], next(parameters)
            ours = torch.einsum("oc,nchw->nohw", weight, ours) + bias[:, None, None]
        expected += (ours - theirs).abs().mean().item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_coarser_student_is_brought_to_the_teachers_resolution() -> None:
    halved = tuple(level[:, :, ::2, ::2] for level in OURS.features)
    found = loss_of("global: identity, l1", student=replace(OURS, features=halved))
    expected = 0.0
    for ours, theirs in zip(halved, THEIRS.features[1:], strict=True):
        doubled = np.kron(ours.detach().numpy(), np.ones((2, 2)))
        cells = theirs.shape[-1]  # the coarsest level has a single cell, before and after
        expected += np.abs(doubled[..., :cells, :cells] - theirs.numpy()).mean()
    assert found["loss_global"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_finite_float32_losses(dtype: torch.dtype) -> None:
    def half(known: Knowledge, gain: float) -> Knowledge:
        return known.map(lambda t: t if t.dtype == torch.bool else (gain * t).to(dtype))

    for gain in (1, 300):
        losses = loss_of(ALL_TERMS, student=half(OURS, gain), teacher=half(THEIRS, gain))
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert all(torch.isfinite(loss) for loss in losses.values())
        gradients = torch.autograd.grad(sum(losses.values()), OURS.features)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_under_autocast_the_terms_stay_in_float32() -> None:
    loss = composed(ALL_TERMS.replace("mask → ", ""))
    observation = Observation(OURS, (THEIRS,), BOXES)
    expected = loss(observation)
    with torch.autocast("cpu", torch.bfloat16):
        for name, value in loss(observation).items():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("distance", FEATURE_DISTANCES)
@pytest.mark.parametrize(
    "transforms", ["identity", "catt → scale_4 → norm_n", "mask → local_4", "min_max"]
)
def test_any_feature_loss_of_real_sizes_is_finite_with_its_gradient(
    distance: str, transforms: str
) -> None:
    text = "; ".join(f"{kind}: {transforms}, {distance}" for kind in FEATURE_KNOWLEDGE)
    for boxes in (BOXES, EMPTY):
        losses = loss_of(text, boxes)
        assert all(torch.isfinite(loss) for loss in losses.values())
        for gradient in torch.autograd.grad(sum(losses.values()), OURS.features):
            assert torch.isfinite(gradient).all()


def test_a_pair_that_does_not_line_up_is_refused_before_any_training() -> None:
    other = replace(TEACHER, responses=replace(TEACHER.responses, classes=80))
    with pytest.raises(WrongUse, match="3 classes and teacher has 80"):
        composed(ALL_TERMS, teacher=other)


def test_the_mask_of_the_background_is_the_complement() -> None:
    mask = foreground(BOXES, (8, 8), 8)
    assert set(mask.unique().tolist()) == {0, 1}
    assert mask[1].sum() == 0


@pytest.mark.slow
def test_the_loss_is_one_graph() -> None:
    """``torch.compile`` finds no graph break, for any number of boxes."""
    module = composed(ALL_TERMS)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    known = knowledge(FINER_STRIDES, 2)

    def ours() -> Knowledge:
        student = student_knowledge()  # the tap finds the places before the loss
        return replace(student, places=places_of(student.positives))

    for boxes in (BOXES, BOXES[::-1]):
        torch.manual_seed(0)  # for the mask of the instance term
        found = compiled(Observation(ours(), (known,), boxes))
        torch.manual_seed(0)
        expected = module(Observation(ours(), (known,), boxes))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
