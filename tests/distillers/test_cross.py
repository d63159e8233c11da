"""CrossKD: the student's head continued by the teacher's, against the paper spelled out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cross_pairs import (
    HEADS,
    LAST,
    LAYERS,
    STACKED,
    both,
    cross_losses,
    detector,
    distilled,
    learned,
    padded,
    rows,
    spelled_out,
    through,
)
from detkds.detectors import CrossHead
from detkds.distillers import DistilledDetector
from detkds.distillers.crossing import aligned as handed_over
from detkds.distillers.crossing import alignment, moments
from detkds.space import Distiller, WrongUse
from thin_detectors import still
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss


@pytest.mark.parametrize("position", range(STACKED + 1))
@pytest.mark.parametrize("family", HEADS)
def test_the_gradient_reaches_the_layers_before_and_no_layer_after(
    family: str, position: int
) -> None:
    model = distilled(family, both(family, position))
    runs: list[int] = []
    model.student.backbone.register_forward_hook(lambda *_: runs.append(1))
    losses = cross_losses(model)
    assert len(runs) == 1, "the student runs once"
    assert set(losses) == {"loss_cross_logits", "loss_cross_localization"}
    assert all(bool(value.isfinite()) and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    student = model.student
    assert learned(student.backbone)
    assert learned(student.neck)
    for stack in (student.bbox_head.cls_convs, student.bbox_head.reg_convs):
        assert [learned(conv) for conv in stack] == [i < position for i in range(STACKED)]
    for name in LAST[family]:
        for parameter in getattr(student.bbox_head, name).parameters():
            assert parameter.grad is None or not parameter.grad.any()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def standardised(student: Tensor, teacher: Tensor) -> Tensor:
    """The alignment, computed channel by channel in a loop."""
    out = torch.empty_like(student)
    variances = [
        [float(side[:, c].var(unbiased=False)) for c in range(side.shape[1])]
        for side in (student, teacher)
    ]
    ours, theirs = (sum(variance) / len(variance) + 1e-6 for variance in variances)
    most = 10 * (theirs / ours) ** 0.5
    for c, (own, known) in enumerate(zip(*variances, strict=True)):
        s, t = student[:, c], teacher[:, c]
        ratio = min(((known + 1e-6) / (own + 1e-6)) ** 0.5, most)
        out[:, c] = (s - s.mean()) * ratio + t.mean()
    return out


def literal(family: str, model: DistilledDetector, position: int) -> dict[str, Tensor]:
    """Formulas (3), (5), (6) and (7) for one batch, level by level, with the release's S and |S|.

    S is the teacher's highest class score, 0 at ignored and padding positions; |S| is the number of
    positives, for FCOS the sum of their centerness, and for bins the sum of S.
    """
    inputs, samples = padded()
    student, teacher = model.student, model.teacher
    ours, theirs = student.extract_feat(inputs), teacher.extract_feat(inputs)
    own, head = student.bbox_head, teacher.bbox_head
    predicted: dict[str, list[Tensor]] = {"cross": [], "teacher": []}
    boxes: dict[str, list[Tensor]] = {"cross": [], "teacher": []}
    for level, (f, g) in enumerate(zip(ours, theirs, strict=True)):
        for branch, found in ((0, predicted), (1, boxes)):
            mine, known = (through(side, branch, x, position) for side, x in ((own, f), (head, g)))
            handed = standardised(mine, known)
            for name, x in (("cross", handed), ("teacher", known)):
                x = F.relu(x) if position else x
                raw = spelled_out(family, head, branch, level, x, position)
                width = own.cls_out_channels if branch == 0 else raw.shape[1] // _priors(own)
                found[name].append(rows(raw, width))
    targets = assigned_targets(student, inputs, samples)
    divisor, _ = divided_by(family, own, targets)
    visible = seen_by_the_loss(family, own, targets, samples, [level.shape[-2:] for level in ours])
    cls = {name: torch.cat(parts) for name, parts in predicted.items()}
    reg = {name: torch.cat(parts) for name, parts in boxes.items()}
    score, soft = cls["cross"].sigmoid(), cls["teacher"].sigmoid()
    bce = -(soft * score.log() + (1 - soft) * (1 - score).log())
    qfl = ((score - soft).abs() * bce)[visible].sum() / divisor
    weight = soft.max(dim=1).values * visible
    if family == "gfl":
        q, p = (reg[name].view(len(weight), 4, -1).softmax(-1) for name in ("cross", "teacher"))
        kl = (p * (p / q).log()).sum(-1).mean(-1)
        return {"logits": qfl, "localization": (kl * weight).sum() / weight.sum()}
    corners = {name: _corners(family, head, part) for name, part in reg.items()}
    giou = generalized_box_iou_loss(corners["cross"], corners["teacher"])
    return {"logits": qfl, "localization": (giou * weight).sum() / divisor}


def _priors(head: Any) -> int:
    return head.prior_generator.num_base_priors[0]


def _corners(family: str, head: Any, raw: Tensor) -> Tensor:
    """GIoU of decoded deltas. Any anchor gives the same ratios of areas; this anchor is 30 x 50."""
    if family in ("retinanet", "atss"):
        anchors = raw.new_tensor([10.0, 20, 40, 70]).expand(len(raw), 4)
        return head.bbox_coder.decode(anchors, raw)
    return torch.stack([-raw[:, 0], -raw[:, 1], raw[:, 2], raw[:, 3]], dim=1) + 100


def divided_by(family: str, head: Any, targets: Any) -> tuple[Any, Tensor]:
    """The divisor, which for FCOS is the positives' centerness; and the number of positives."""
    place = 1 if family in ("atss", "gfl") else 0
    labels = torch.cat([level.reshape(-1) for level in targets[place]])
    positive = (labels >= 0) & (labels < head.num_classes)
    if not family.startswith("fcos"):
        return positive.sum(), positive.sum()
    left, top, right, bottom = torch.cat(targets[1])[positive].unbind(1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * along).sqrt().sum(), positive.sum()


def seen_by_the_loss(
    family: str, head: Any, targets: Any, samples: list, sizes: list[tuple[int, int]]
) -> Tensor:
    """False for the priors that the assignment gives no weight, and in the padding."""
    levels = []
    for (height, width), stride in zip(sizes, (8, 16, 32, 64, 128), strict=True):
        inside = torch.zeros(len(samples), height, width, _priors(head), dtype=torch.bool)
        for one, sample in zip(inside, samples, strict=True):
            for y, x in product(range(height), range(width)):
                high, wide = sample.img_shape
                one[y, x] = y * stride < high and x * stride < wide
        levels.append(inside.reshape(-1))
    visible = torch.cat(levels)
    assert not visible.all()
    if family.startswith("fcos"):
        return visible
    place = 2 if family in ("atss", "gfl") else 1
    return visible & (torch.cat([level.reshape(-1) for level in targets[place]]) > 0)


def assigned_targets(student: Any, inputs: Tensor, samples: list) -> Any:
    """What the head's own assignment returns."""
    head, kept = student.bbox_head, {}
    original = head.get_targets

    def recorded(*args: Any, **kwargs: Any) -> Any:
        kept["targets"] = original(*args, **kwargs)
        return kept["targets"]

    head.get_targets = recorded
    try:
        student.loss(inputs, samples)
    finally:
        del head.get_targets
    return kept["targets"]


@pytest.mark.parametrize("position", range(STACKED + 1))
@pytest.mark.parametrize("family", HEADS)
def test_the_losses_are_the_papers_spelled_out(family: str, position: int) -> None:
    model = distilled(family, both(family, position))
    with torch.no_grad():
        found, expected = cross_losses(model), literal(family, model, position)
    torch.testing.assert_close(found["loss_cross_logits"], expected["logits"], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(
        found["loss_cross_localization"], expected["localization"], rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("family", ["retinanet", "fcos", "gfl"])
def test_batch_normalisation_is_the_teachers_and_left_alone(family: str) -> None:
    options = {"model.bbox_head.norm_cfg": {"type": "BN"}}
    pair = still(detector(family, 0, **options)), detector(family, 1, **options)
    model = DistilledDetector(*pair, Distiller.parse(both(family, 2)))
    before = {name: value.clone() for name, value in pair[1].named_buffers()}
    with torch.no_grad():
        found, expected = cross_losses(model), literal(family, model, 2)
    for name, value in expected.items():
        torch.testing.assert_close(found[f"loss_cross_{name}"], value, rtol=1e-3, atol=1e-7)
    cross_losses(model.train())
    assert all(torch.equal(value, before[name]) for name, value in pair[1].named_buffers())


@pytest.mark.parametrize("family", HEADS)
def test_after_the_last_layer_it_is_plain_prediction_mimicking(family: str) -> None:
    model = distilled(family, both(family, LAYERS))
    plain = DistilledDetector(
        model.student, model.teacher, Distiller.parse("logits: identity, quality_focal")
    )
    with torch.no_grad():
        found = cross_losses(model)
        expected = plain.loss(*padded())["loss_logits"]
    targets = assigned_targets(model.student, *padded())
    divisor, positives = divided_by(family, model.student.bbox_head, targets)
    torch.testing.assert_close(found["loss_cross_logits"] * divisor, expected * positives)
    losses = cross_losses(model)
    sum(losses.values()).backward()
    for name in LAST[family]:
        assert learned(getattr(model.student.bbox_head, name))


@pytest.mark.parametrize("family", HEADS)
def test_it_is_zero_for_the_teacher_itself(family: str) -> None:
    teacher = detector(family, 1)
    for position in range(LAYERS + 1):
        form = Distiller.parse(both(family, position))
        model = DistilledDetector(still(detector(family, 1)), teacher, form)
        with torch.no_grad():
            for value in cross_losses(model).values():
                assert abs(float(value)) < 1e-4


@pytest.mark.parametrize("family", ["retinanet", "gfl"])
def test_heads_of_unequal_widths_meet_through_an_adapter(family: str) -> None:
    model = distilled(family, both(family, 2), **{"model.bbox_head.feat_channels": 24})
    pair = model.distillation.parts[f"cross_{STACKED - 1}"].adapters
    assert [(conv.in_channels, conv.out_channels) for conv in pair] == [(16, 24)] * 2
    sum(cross_losses(model).values()).backward()
    assert all(learned(conv) for conv in pair)
    assert not any("adapter" in name for name in model.state_dict())


def test_heads_of_unequal_depth_hand_over_where_both_have_a_layer() -> None:
    pair = detector("retinanet", 0, stacked=1), detector("retinanet", 1, stacked=2)
    model = DistilledDetector(*pair, Distiller.parse("cross_logits: identity, quality_focal"))
    assert model.distillation.needs.positions == {0}
    with pytest.raises(WrongUse, match="have 2 and 3 layers: give after_0 to after_1"):
        DistilledDetector(*pair, Distiller.parse("cross_logits: after_2, quality_focal"))


def test_by_default_one_convolution_of_the_teacher_is_left() -> None:
    """The paper's i = 3 for heads of four stacked convolutions."""
    model = distilled("gfl", both("gfl", "identity"))
    assert model.distillation.needs.positions == {STACKED - 1}


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    how = alignment(moments(student), moments(teacher), [student[:, 0].numel()])
    return handed_over(student, how, teacher.dtype)


def test_a_map_gets_the_teachers_mean_and_deviation() -> None:
    student, teacher = torch.randn(3, 5, 7, 6) * 4 + 1, torch.randn(3, 5, 7, 6) - 2
    found = aligned(student, teacher)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(found, (0, 2, 3)), moment(teacher, (0, 2, 3)))
    torch.testing.assert_close(found, standardised(student, teacher))
    exact = student.double(), teacher.double()
    torch.testing.assert_close(aligned(*exact), standardised(*exact), rtol=1e-12, atol=1e-12)
    exact[0][:, 2] *= 1e-3  # far below the other channels, in the student alone and in both
    torch.testing.assert_close(aligned(*exact), standardised(*exact), rtol=1e-12, atol=1e-12)
    exact[1][:, 2] *= 1e-3
    torch.testing.assert_close(aligned(*exact), standardised(*exact), rtol=1e-12, atol=1e-12)
    constant = torch.ones(2, 5, 1, 1)
    assert bool(aligned(constant, constant).isfinite().all())


def as_published(student: Tensor, teacher: Tensor) -> Tensor:
    """The alignment with a constant in place of the least deviation."""
    axes = (0, 2, 3)
    unit = student.float() - student.float().mean(axes, keepdim=True)
    unit = unit / (student.float().var(axes, correction=0, keepdim=True) + 1e-6).sqrt()
    deviation, mean = torch.std_mean(teacher.float(), axes, correction=0, keepdim=True)
    return (unit * deviation + mean).to(teacher.dtype)


def gradients(
    align: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, scale: float
) -> Tensor:
    """The largest gradient of each of 8 channels, the first of which is dead: its values are equal.

    The loss has a gradient of about 1 / 64 at each position, times ``scale``.
    """
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 8, 12, 12)
    student[:, 0] = 0.25
    leaf, known = student.to(dtype).requires_grad_(), teacher.to(dtype)
    pull = torch.randn(2, 8, 12, 12) / 64
    ((align(leaf, known).float() * pull).sum() * scale).backward()
    return leaf.grad.float().abs().amax((0, 2, 3)) / scale


def test_a_dead_channel_gets_a_tenfold_gradient_and_not_a_thousandfold_one() -> None:
    before = gradients(as_published, torch.float32, 1)
    after = gradients(aligned, torch.float32, 1)
    usual = after[1:].median()
    assert before[0] / usual > 900
    assert 5 < after[0] / usual < 15
    torch.testing.assert_close(after[1:], before[1:])


def test_a_dead_channel_does_not_overflow_in_float16() -> None:
    """Under mmengine's first scale of the loss, 2^16; float16 ends at 65,504."""
    before = gradients(as_published, torch.float16, 2.0**16)
    after = gradients(aligned, torch.float16, 2.0**16)
    assert before[0] == float("inf")
    assert bool(before[1:].isfinite().all())
    assert bool(after.isfinite().all())
    assert 5 < after[0] / after[1:].median() < 15


def test_maps_whose_channels_are_all_small_are_aligned_as_published() -> None:
    """As the maps of a head that has just been initialised."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 8, 12, 12)
    torch.testing.assert_close(
        aligned(student * 0.02, teacher),
        as_published(student * 0.02, teacher),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_teachers_head_is_left_as_it_is() -> None:
    teacher = detector("retinanet", 1)
    before = {
        name: len(stack)
        for name, stack in teacher.bbox_head.named_children()
        if isinstance(stack, torch.nn.ModuleList)
    }
    CrossHead(teacher.bbox_head, 2)
    assert before == {"cls_convs": STACKED, "reg_convs": STACKED}
    assert len(teacher.bbox_head.cls_convs) == STACKED
