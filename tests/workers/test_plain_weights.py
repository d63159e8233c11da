"""Weights in shares: what they become, against another computation, and in trials."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tiny
import torch
from detkds.detectors import signature
from detkds.distillers import MAP_DISTANCES, DistillationLoss, DistilledDetector, Pair
from detkds.settings import Model
from detkds.space import Distiller, Status, WrongUse
from detkds.workers.filter import measure
from detkds.workers.student import build_student
from detkds.workers.trial import TrialContext, evaluate
from mmengine.dataset import pseudo_collate
from mmengine.runner import set_random_seed
from thin_detectors import thin_config, total

pytestmark = pytest.mark.slow

FORMS = (
    "global: catt → scale_2 → norm_n, l1",
    "fgbg: identity, pearson",
    "instance: norm_hw, l2",
    "logits: norm_n, pearson",
    "localization: sigmoid, giou",
    "cross_logits: after_1, quality_focal",
    "cross_localization: identity, giou",
    "label: identity, jensen_shannon",
    "mgd: hide_65, l2",
    "global: identity, l2 × 1 stepwise",
)


def share(form: str, size: float) -> Distiller:
    """The form, with a share as its weight."""
    (term,) = Distiller.parse(form).terms
    return Distiller((replace(term, weight=size, unit="share"),))


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> TrialContext:
    """No image is flipped: a flip in the stored batch would not be the flip of another draw."""
    return tiny.trial_context(tmp_path_factory.mktemp("shares"), "data.flip=0")


def gradients_of_training(context: TrialContext, form: Distiller) -> tuple[list, list, float]:
    """The gradients of detection loss and distillation in the neck's maps of a training's forward.

    Also the detection loss. The whole student runs, with nothing of the stored batch. The maps are
    cut from each other: a neck may compute one of them from another.
    """
    student = build_student(context.task.student, context.seed)
    student.train()
    images = [context.train_set[index] for index in range(context.schedule.batch_size)]
    batch = student.data_preprocessor(pseudo_collate(images), True)
    set_random_seed(0)
    model = DistilledDetector(student, context.teachers, form)
    model.distillation.follow(lambda: 0)
    maps: list = []

    def cut(module, args, output):
        maps.extend(level.detach().requires_grad_() for level in output)
        return tuple(maps)

    student.neck.register_forward_hook(cut)
    losses = model.loss(batch["inputs"], batch["data_samples"])
    names = {f"loss_{term.knowledge}" for term in form.active}
    own = {name: v for name, v in losses.items() if name not in names and "label_" not in name}
    detection = total(own)
    theirs = torch.autograd.grad(detection, maps, retain_graph=True)
    distillation = total({name: losses[name] for name in names})
    ours = torch.autograd.grad(distillation, maps, allow_unused=True)
    ours = [torch.zeros_like(m) if g is None else g for g, m in zip(ours, maps, strict=True)]
    return list(theirs), ours, float(detection.detach())


def flat(gradients: list) -> torch.Tensor:
    return torch.cat([gradient.flatten().double() for gradient in gradients])


#: Students, whose teachers are alike, and forms that such pairs share.
FAMILIES = {
    "fcos": (
        "logits: norm_n, l1",
        "localization: identity, iou",
        "cross_localization: after_0, log_iou",
    ),
    "gfl": (
        "logits: norm_n, l1",
        "localization: sigmoid, ciou",
        "cross_localization: identity, kl",
    ),
    "faster_rcnn": ("global: identity, l2", "logits: softmax_c, kl", "localization: pow2, giou"),
    "deformable_detr": ("global: identity, l2", "fgbg: norm_c, l1"),
}
DETR = {
    "model.backbone.depth": 18,
    "model.backbone.init_cfg": None,
    "model.neck.in_channels": [128, 256, 512],
    "model.encoder.num_layers": 1,
    "model.decoder.num_layers": 1,
    "model.bbox_head.num_classes": 4,
}


def model_of(family: str) -> Model:
    if family == "deformable_detr":
        config = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
        return Model(config=config, cfg_options=DETR)
    return Model(config=thin_config(family).to_dict())


def with_pair(context: TrialContext, family: str) -> TrialContext:
    """The context with a student of another family, and a teacher like it, both untrained."""
    model = model_of(family)
    teacher = build_student(model, seed=1).eval()
    task = context.task.model_copy(update={"student": model})
    return replace(context, task=task, teachers=[teacher])


def check_share(context: TrialContext, form: str) -> None:
    """Training's own forward finds the share and the cosine that the filter's pass gave."""
    found = measure(context.batch, share(form, 0.3))
    detection, distillation, loss = gradients_of_training(context, found.distiller)
    ours, theirs = flat(distillation), flat(detection)
    assert float(ours.norm() / theirs.norm()) == pytest.approx(0.3, rel=6e-3)
    cosine = float(ours @ theirs / ours.norm() / theirs.norm())
    assert found.metrics["filter/cosine"] == pytest.approx(cosine, rel=1e-3, abs=1e-5)
    assert found.metrics["filter/share"] == pytest.approx(0.3, rel=6e-3)
    (weight,) = (v for name, v in found.metrics.items() if name.startswith("weight/"))
    assert weight == found.distiller.terms[0].weight == float(f"{weight:.3g}")
    assert math.isfinite(loss)


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_weight_gives_the_share_in_a_trainings_own_forward(context, form):
    check_share(context, form)


@pytest.mark.parametrize(("family", "form"), [(f, one) for f in FAMILIES for one in FAMILIES[f]])
def test_so_it_does_for_other_heads(context, family, form):
    check_share(with_pair(context, family), form)


def test_the_drop_is_that_of_a_step_of_the_maps(context):
    """A step along the detection loss's own gradient would take a tenth of the loss."""
    form = Distiller.parse("global: identity, l2 × 1")
    detection, distillation, loss = gradients_of_training(context, form)
    batch = context.batch
    size = 0.1 * loss / flat(detection).norm() / flat(distillation).norm()
    moved = [m - size.float() * g for m, g in zip(batch.maps, distillation, strict=True)]
    student = build_student(context.task.student, context.seed).train()
    student.extract_feat = lambda images: tuple(moved)
    after = float(total(student.loss(batch.images, batch.samples)).detach())
    assert measure(batch, form).metrics["filter/drop"] == pytest.approx(1 - after / loss, abs=1e-6)


def test_a_distance_a_thousand_times_as_large_has_the_same_loss(context, monkeypatch):
    form, seen = share("global: norm_hw, l2", 0.3), []
    for scale in (1, 1000):
        distance = MAP_DISTANCES["l2"]
        with monkeypatch.context() as patch:
            larger = lambda *given: scale * distance(*given)  # noqa: E731, B023
            patch.setitem(MAP_DISTANCES, "l2", larger)
            found = measure(context.batch, form).distiller.terms[0].weight
        seen.append((scale * found, found))
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-9)
    assert seen[0][1] == pytest.approx(1000 * seen[1][1])


def test_a_terms_weight_does_not_depend_on_the_others(context):
    alone = [share(form, 0.1 * (i + 1)) for i, form in enumerate(FORMS[:9])]
    together = Distiller(tuple(one.terms[0] for one in alone))
    found = measure(context.batch, together, filtered=False).distiller
    for one in alone:
        (term,) = measure(context.batch, one, filtered=False).distiller.terms
        assert term in found.terms


def test_a_plain_weight_stays_as_it_is_beside_a_share(context):
    mixed = Distiller.parse("global: identity, l2 × 7; logits: norm_n, pearson × 0.3 share")
    found = measure(context.batch, mixed)
    assert found.distiller.terms[0] == mixed.terms[0]
    assert [name for name in found.metrics if name.startswith("weight/")] == ["weight/logits"]
    assert not found.distiller.in_shares


@pytest.mark.parametrize("filtered", [True, False])
def test_a_gradient_of_zero_has_no_share(context, monkeypatch, filtered):
    monkeypatch.setitem(MAP_DISTANCES, "l2", lambda ours, *others: 0 * ours.sum())
    outcome = evaluate(replace(context, filtered=filtered), share("global: identity, l2", 0.3))
    assert outcome.status is Status.REJECTED
    assert "no weight makes a share of loss_global: in the maps its gradient has the size 0" in (
        outcome.reason
    )


def test_a_trial_in_shares_is_the_trial_of_its_plain_weights(context):
    form = Distiller.parse("global: identity, l2 × 1 share; logits: norm_n, pearson × 0.3 share")
    for one in (context, replace(context, filtered=False)):
        shares = evaluate(one, form)
        assert shares.status is Status.COMPLETED, shares.error
        assert set(shares.plain_weights) == {"global", "logits"}
        plain = form.with_plain_weights(shares.plain_weights)
        assert not plain.in_shares
        again = evaluate(one, plain)
        assert again.score == shares.score
        assert again.metrics.items() <= shares.metrics.items()
        assert torch.equal(tiny.weights_after(one, form), tiny.weights_after(one, plain))
    assert {"filter/cosine", "filter/drop", "filter/share"} <= shares.metrics.keys()


def test_nothing_else_trains_with_shares(context):
    form = share("global: identity, l2", 0.3)
    says = "the weight of global is a share"
    student = build_student(context.task.student, context.seed)
    with pytest.raises(WrongUse, match=says):
        DistilledDetector(student, context.teachers[0], form.to_dict())
    own = signature(student, "student")
    with pytest.raises(WrongUse, match=says):
        DistillationLoss(form, Pair(own, own))
