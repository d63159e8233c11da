"""Taps read from a forward the same values that mmdet itself computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detkds.detectors import Tap, model_config, signature, teacher_knowledge, without_pretrained
from detkds.space import WrongUse
from mmengine.config import ConfigDict
from thin_detectors import CLASSES, ONE_STAGE, batch, still, thin_detector
from torch import Tensor
from torchvision.ops import box_iou


def flattened(levels: list[Tensor], channels: int) -> Tensor:
    """Outputs of mmdet's head, (N, A·channels, H, W) per level, as (N, all priors, channels)."""
    images = len(levels[0])
    flat = [level.permute(0, 2, 3, 1).reshape(images, -1, channels) for level in levels]
    return torch.cat(flat, dim=1)


def side_by_side(levels: tuple[Tensor, ...]) -> Tensor:
    """Knowledge, (N, channels, *) per level, as (N, all priors, channels)."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def tapped(model: Any, responses: bool = True) -> Any:
    with Tap(model, responses=responses) as tap:
        model.loss(*batch())
    return tap.knowledge


@pytest.mark.parametrize("family", [*ONE_STAGE, "faster_rcnn"])
def test_tapped_features_equal_extract_feat(family: str) -> None:
    model = thin_detector(family).eval()
    features = tapped(model, responses=False).features
    for found, expected in zip(features, model.extract_feat(batch()[0]), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ONE_STAGE)
def test_logits_are_in_the_order_of_the_priors(family: str) -> None:
    model = still(thin_detector(family))
    outputs = model.bbox_head(model.extract_feat(batch()[0]))
    expected = flattened(outputs[0], model.bbox_head.cls_out_channels)
    torch.testing.assert_close(side_by_side(tapped(model).logits), expected)


@pytest.mark.parametrize("family", ["retinanet", "atss"])
def test_localization_of_anchors_is_their_decoded_boxes(family: str) -> None:
    """Sides are measured from the anchor's centre, in units of the anchor's width and height."""
    model = still(thin_detector(family))
    outputs = model.bbox_head(model.extract_feat(batch()[0]))
    sizes = [level.shape[-2:] for level in outputs[1]]
    anchors = torch.cat(model.bbox_head.prior_generator.grid_priors(sizes, device="cpu"))
    found = side_by_side(tapped(model).boxes)
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    for deltas, sides in zip(flattened(outputs[1], 4), found, strict=True):
        boxes = model.bbox_head.bbox_coder.decode(anchors, deltas)
        expected = torch.cat([(centre - boxes[:, :2]) / size, (boxes[:, 2:] - centre) / size], 1)
        torch.testing.assert_close(sides, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["fcos", "fcos_norm_on_bbox"])
def test_localization_is_in_the_order_of_the_priors(family: str) -> None:
    """FCOS without ``norm_on_bbox`` predicts in pixels; the tap divides by the stride."""
    model = still(thin_detector(family))
    outputs = model.bbox_head(model.extract_feat(batch()[0]))
    strides = model.bbox_head.strides if family == "fcos" else [1] * 5
    sides = [level / stride for level, stride in zip(outputs[1], strides, strict=True)]
    expected = flattened(sides, 4)
    torch.testing.assert_close(side_by_side(tapped(model).boxes), expected)


def test_distributions_are_integrated_to_their_mean_distance() -> None:
    """GFL, formula 3: the four sides are Σ i P(i) of the softmax over reg_max + 1 bins."""
    model = still(thin_detector("gfl"))
    outputs = model.bbox_head(model.extract_feat(batch()[0]))
    bins = model.bbox_head.reg_max + 1
    shares = flattened(outputs[1], 4 * bins).unflatten(2, (4, bins)).softmax(dim=3)
    expected = (shares * torch.arange(bins)).sum(dim=3)
    torch.testing.assert_close(side_by_side(tapped(model).boxes), expected)


@pytest.mark.parametrize("family", ONE_STAGE)
def test_a_teacher_in_evaluation_gives_the_values_of_a_student_in_training(family: str) -> None:
    model = still(thin_detector(family))
    student = tapped(model)
    teacher = teacher_knowledge(model.eval(), *batch(), responses=True)
    for name in ("features", "logits", "localization"):
        for ours, theirs in zip(getattr(student, name), getattr(teacher, name), strict=True):
            torch.testing.assert_close(theirs, ours.detach())
            assert not theirs.requires_grad
            assert ours.requires_grad


@pytest.mark.parametrize("family", ["retinanet", "atss", "gfl"])
def test_positives_are_priors_on_their_objects(family: str) -> None:
    model = still(thin_detector(family))
    _, samples = batch()
    known = tapped(model)
    positives = torch.cat(known.positives, dim=1)
    sizes = [level.shape[-2:] for level in known.features]
    priors = torch.cat(model.bbox_head.prior_generator.grid_priors(sizes, device="cpu"))
    for image, sample in zip(positives, samples, strict=True):
        overlap = box_iou(priors, sample.gt_instances.bboxes).amax(dim=1)
        assert image.any()
        if family == "retinanet":  # MaxIoUAssigner: an IoU of 0.5, or the object's best prior
            assert image[overlap >= 0.5].all()
            assert (image == (overlap >= 0.5)).float().mean() > 0.99
        centres = (priors[image, :2] + priors[image, 2:]) / 2
        boxes = sample.gt_instances.bboxes
        inside = (centres[:, None] >= boxes[:, :2]) & (centres[:, None] <= boxes[:, 2:])
        assert inside.all(dim=2).any(dim=1).float().mean() > (
            0.8 if family == "retinanet" else 0.99
        )


@pytest.mark.parametrize("family", ["fcos", "fcos_norm_on_bbox"])
def test_positives_are_points_in_their_objects(family: str) -> None:
    model = still(thin_detector(family))
    known = tapped(model)
    sizes = [level.shape[-2:] for level in known.features]
    points = torch.cat(model.bbox_head.prior_generator.grid_priors(sizes, device="cpu"))
    for image, sample in zip(torch.cat(known.positives, dim=1), batch()[1], strict=True):
        x1, y1, x2, y2 = sample.gt_instances.bboxes.unbind(1)
        x, y = points[image].unbind(1)
        inside = (x[:, None] > x1) & (x[:, None] < x2) & (y[:, None] > y1) & (y[:, None] < y2)
        assert len(x) > 0
        assert inside.any(dim=1).all()


@pytest.mark.parametrize("family", [*ONE_STAGE, "faster_rcnn"])
def test_padding_and_ignored_priors_do_not_count(family: str) -> None:
    """The second image fills the left half and the upper three quarters of the batch's size."""
    model = still(thin_detector(family))
    inputs, samples = batch()
    height, width = inputs.shape[-2:]
    shapes = [(height, width), (3 * height // 4, width // 2)]
    with Tap(model, responses=True, shapes=shapes) as tap:
        model.loss(inputs, samples)
    known = tap.knowledge
    with Tap(model, responses=True) as tap:
        model.loss(inputs, samples)
    everywhere = tap.knowledge.counted
    if family == "faster_rcnn":
        expected = (
            torch.arange(max(known.regions.counts)) < torch.tensor(known.regions.counts)[:, None]
        )
        assert torch.equal(known.counted[0], expected)
        return
    strides = signature(model, "it").strides
    for level, whole, maps, stride in zip(
        known.counted, everywhere, known.features, strides, strict=True
    ):
        h, w = maps.shape[-2:]
        cells = level.view(2, h, w, -1)
        assert torch.equal(level[0], whole[0])
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        inside = (y * stride < shapes[1][0]) & (x * stride < shapes[1][1])
        expected = inside[:, :, None] & whole.view(2, h, w, -1)[1]
        assert torch.equal(cells[1], expected)
    ignored = sum(int((~level).sum()) for level in everywhere)
    assert (ignored > 0) == (family == "retinanet"), "anchors that overlap an object by half"


def test_a_tap_removes_its_hooks() -> None:
    model = thin_detector("fcos").train()

    def hooks() -> list[dict]:
        kinds = ("_forward_hooks", "_forward_pre_hooks")
        return [dict(getattr(module, kind)) for module in model.modules() for kind in kinds]

    before, attributes = hooks(), set(vars(model.bbox_head))
    with Tap(model, responses=True, positions=range(3)):
        assert hooks() != before
        assert set(vars(model.bbox_head)) != attributes
        model.loss(*batch())
    assert hooks() == before
    assert set(vars(model.bbox_head)) == attributes
    with pytest.raises(ZeroDivisionError), Tap(model, responses=True, positions=range(3)):
        1 / 0  # noqa: B018
    assert hooks() == before
    assert set(vars(model.bbox_head)) == attributes


def test_regions_are_the_regions_that_the_head_trains_on() -> None:
    """The expected responses come from extractor and head, and from each label's own channels."""
    model = still(thin_detector("faster_rcnn"))
    known = tapped(model)
    regions = known.regions
    head, maps = model.roi_head, model.extract_feat(batch()[0])
    scores, deltas = head.bbox_head(head.bbox_roi_extractor(maps[:4], regions.rois))
    assert len(known.logits) == len(known.localization) == len(known.positives) == 1
    most = max(regions.counts)
    assert sum(regions.counts) == len(regions.rois)
    assert regions.counts[0] != regions.counts[1], "the shorter row is padded"
    assert known.logits[0].shape == (2, CLASSES + 1, most)
    counted = known.counted[0]
    assert counted.sum(dim=1).tolist() == list(regions.counts)
    torch.testing.assert_close(side_by_side(known.logits)[counted], scores)
    assert torch.equal(known.positives[0][counted], regions.labels < CLASSES)
    assert not known.positives[0][~counted].any()
    found = side_by_side(known.boxes)[counted]
    for row, label in enumerate(regions.labels.tolist()):
        if label < CLASSES:
            own = deltas[row : row + 1, 4 * label : 4 * label + 4]
            roi = regions.rois[row : row + 1, 1:]
            box = head.bbox_head.bbox_coder.decode(roi, own)
            centre, size = (roi[:, :2] + roi[:, 2:]) / 2, roi[:, 2:] - roi[:, :2]
            sides = torch.cat([(centre - box[:, :2]) / size, (box[:, 2:] - centre) / size], 1)[0]
            torch.testing.assert_close(found[row], sides, rtol=1e-3, atol=1e-3)
    positive = regions.labels < CLASSES
    assert 0 < positive.sum() < len(positive)
    boxes = torch.cat([sample.gt_instances.bboxes for sample in batch()[1]])
    overlap = box_iou(regions.rois[:, 1:], boxes).amax(dim=1)
    assert (overlap[positive] >= 0.5).all()


def test_a_teacher_predicts_for_the_students_regions_from_its_own_maps() -> None:
    student, teacher = thin_detector("faster_rcnn"), thin_detector("faster_rcnn", seed=1).eval()
    regions = tapped(still(student)).regions
    found = teacher_knowledge(teacher, *batch(), responses=True, regions=regions)
    maps = teacher.extract_feat(batch()[0])
    features = teacher.roi_head.bbox_roi_extractor(maps[:4], regions.rois)
    expected = teacher.roi_head.bbox_head(features)[0]
    torch.testing.assert_close(side_by_side(found.logits)[regions.counted], expected)
    assert found.localization[0].shape == (2, 4, max(regions.counts))
    assert not teacher_knowledge(teacher, *batch(), responses=False).logits


def test_a_neck_whose_levels_the_head_does_not_read_is_refused() -> None:
    model = thin_detector("retinanet", **{"model.neck.num_outs": 4})
    with pytest.raises(
        WrongUse, match=r"it: its neck gives levels of stride \[8, 16, 32, 64\], its "
    ):
        signature(model, "it")


@pytest.mark.parametrize(
    ("family", "strides", "priors"),
    [
        ("retinanet", (8, 16, 32, 64, 128), (9,) * 5),
        ("fcos", (8, 16, 32, 64, 128), (1,) * 5),
        ("gfl", (8, 16, 32, 64, 128), (1,) * 5),
        ("atss", (8, 16, 32, 64, 128), (1,) * 5),
        ("faster_rcnn", (4, 8, 16, 32, 64), ()),
    ],
)
def test_a_signature_describes_the_detector_and_leaves_it_alone(
    family: str, strides: tuple[int, ...], priors: tuple[int, ...]
) -> None:
    model = thin_detector(family, neck=24).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = signature(model, "it")
    assert (found.name, found.strides, found.channels) == ("it", strides, (24,) * 5)
    assert found.responses is not None
    assert (found.responses.classes, found.responses.priors) == (CLASSES, priors)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_flat_and_nested_options_are_merged() -> None:
    flat, nested = {"model.bbox_head.num_classes": 4}, {"model": {"neck": {"num_outs": 3}}}
    found = model_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", {**flat, **nested})
    assert (found.bbox_head.num_classes, found.neck.num_outs) == (4, 3)


def test_without_pretrained_returns_a_copy_without_pretrained_weights() -> None:
    fetched = {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}
    part = {"type": "ResNet", "init_cfg": fetched}
    for config in ({"backbone": part}, ConfigDict(backbone=part), {"parts": [part]}):
        stripped = without_pretrained(config)
        (value,) = stripped.values()
        value = value[0] if isinstance(value, list) else value
        assert value["init_cfg"] is None
        (kept,) = config.values()
        kept = kept[0] if isinstance(kept, list) else kept
        assert kept["init_cfg"] == fetched
