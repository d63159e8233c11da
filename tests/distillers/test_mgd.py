"""MGD: a mask, a generator, and the squared distance to the teacher's maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detkds.distillers import DistilledDetector
from detkds.distillers.mgd import hidden_share
from detkds.space import Distiller, Term
from thin_detectors import batch, still, thin_detector


def distilled(text: str) -> DistilledDetector:
    torch.manual_seed(0)
    pair = thin_detector("retinanet"), thin_detector("retinanet", 1, neck=24)
    return DistilledDetector(still(pair[0]), pair[1], Distiller.parse(text))


def maps_of(detector: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    return detector.extract_feat(batch()[0])


@pytest.mark.parametrize(("name", "share"), [("identity", 0), ("hide_25", 0.25), ("hide_65", 0.65)])
def test_the_loss_is_the_papers(name: str, share: float) -> None:
    """Formulas (1) to (4), with the mean of squares in the place of the sum."""
    model = distilled(f"mgd: {name}, l2 × 2")
    torch.manual_seed(5)
    found = model.loss(*batch())["loss_mgd"]
    state = model.distillation_state()
    part = f"parts.mgd_{name}"
    torch.manual_seed(5)
    expected = torch.zeros(())
    for i, (ours, theirs) in enumerate(
        zip(maps_of(model.student), maps_of(model.teacher), strict=True)
    ):
        align = [state[f"{part}.adapter.levels.{i}.{kind}"] for kind in ("weight", "bias")]
        first, second = (
            [state[f"{part}.generators.{i}.{layer}.{kind}"] for kind in ("weight", "bias")]
            for layer in (0, 2)
        )
        mask = (torch.rand(2, 1, *ours.shape[-2:]) >= share).float()
        generated = F.conv2d(mask * F.conv2d(ours, *align), *first, padding=1).relu()
        generated = F.conv2d(generated, *second, padding=1)
        expected = expected + 2 * (generated - theirs).square().mean()
    torch.testing.assert_close(found, expected)


def test_the_mask_hides_its_share_of_positions_anew_every_time() -> None:
    model = distilled("mgd: hide_65, l2")
    (generation,) = model.distillation.parts.values()
    ones = torch.ones(4, 3, 64, 64)
    masks = [generation._masked(ones) for _ in range(2)]
    assert not torch.equal(*masks)
    for mask in masks:
        assert torch.equal(mask, mask[:, :1].expand_as(mask)), "one mask for all channels"
        assert not torch.equal(mask[0], mask[1]), "one mask an image"
        assert float(mask.mean()) == pytest.approx(0.35, abs=0.02)


def test_student_and_generator_learn_and_the_teacher_does_not() -> None:
    model = distilled("mgd: hide_65, l2")
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*batch())["loss_mgd"]
    assert loss.dtype == torch.float32
    loss.backward()
    (generation,) = model.distillation.parts.values()
    finest = [*generation.generators[0].parameters(), *generation.adapter.levels[0].parameters()]
    assert all(bool(p.grad.any()) for p in finest)
    assert any(p.grad is not None for p in model.student.backbone.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert model.state_dict().keys() == thin_detector("retinanet").state_dict().keys()


def test_the_share_is_read_off_the_term() -> None:
    term = Term.parse("mgd: hide_45, l2 × 5 stepwise")
    assert hidden_share(term) == 0.45
    assert str(term) == "mgd: hide_45, l2 × 5 stepwise"
    assert hidden_share(Term.parse("mgd: identity, l2")) == 0
