"""Every dense head of mmdet: one real step with all that it shares, or a true reason why not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from detkds.detectors import (
    Signature,
    Tap,
    build_detector,
    config_path,
    model_config,
    signature,
    teacher_knowledge,
    without_pretrained,
)
from detkds.distillers import DistilledDetector, available_knowledge, check_pair, excluded
from detkds.space import Distiller, WrongUse
from kinds import CROSS_KNOWLEDGE, LABEL, RESPONSE_KNOWLEDGE
from mmdet.structures.mask import BitmapMasks
from mmengine.logging import MessageHub
from thin_detectors import batch, still, thin_detector, total
from torch import Tensor

#: Options that shrink a ResNet-50 with an FPN.
RESNET = {
    "model.backbone.depth": 18,
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.backbone.norm_cfg": {"type": "BN", "requires_grad": True},
    "model.neck.in_channels": [8, 16, 32, 64],
}
TINY = {
    **RESNET,
    "model.neck.out_channels": 32,
    "model.bbox_head.in_channels": 32,
    "model.bbox_head.feat_channels": 32,
}
FEATURES = ("global", "fgbg", "instance", "mgd", "fgbg_area")
TEACHER_OF_LD = str(config_path("mmdet::gfl/gfl_r50_fpn_1x_coco.py"))

LOGITS = ("logits", "cross_logits")
DENSE = ("logits", "localization")
ALL = (*DENSE, *CROSS_KNOWLEDGE)
#: By stock config: the options that shrink the detector, the knowledge that two such detectors
#: share besides maps and labels, and the reason why they share no other.
HEADS: dict[str, tuple[dict, tuple[str, ...], str]] = {
    "free_anchor/freeanchor_r50_fpn_1x_coco": (
        TINY,
        LOGITS,
        "FreeAnchorRetinaHead, which assigns no label to its priors, and boxes are compared where",
    ),
    "ddod/ddod_r50_fpn_1x_coco": (TINY, ALL, ""),
    "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco": (
        {
            **{k: v for k, v in RESNET.items() if "neck" not in k},
            "model.neck.0.in_channels": [8, 16, 32, 64],
            "model.neck.0.out_channels": 32,
            "model.neck.1.in_channels": 32,
            "model.neck.1.out_channels": 32,
            "model.bbox_head.in_channels": 32,
            "model.bbox_head.feat_channels": 32,
        },
        ALL,
        "",
    ),
    "paa/paa_r50_fpn_1x_coco": (TINY, ALL, ""),
    "lad/lad_r50-paa-r101_fpn_2xb8_coco_1x": (
        {
            **TINY,
            **{k.replace(".backbone", ".teacher_backbone"): v for k, v in RESNET.items()},
            "model.teacher_neck.in_channels": [8, 16, 32, 64],
            "model.teacher_ckpt": None,
        },
        LOGITS,
        "LADHead, which assigns no label",
    ),
    "ld/ld_r18-gflv1-r101_fpn_1x_coco": (
        {
            **TINY,
            "model.backbone.init_cfg": None,
            "model.teacher_config": TEACHER_OF_LD,
            "model.teacher_ckpt": None,
        },
        ALL,
        "",
    ),
    "vfnet/vfnet_r50_fpn_1x_coco": (TINY, DENSE, "one of whose branches reads the other"),
    "autoassign/autoassign_r50-caffe_fpn_1x_coco": (TINY, LOGITS, "assigns no label"),
    "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance": (
        {**TINY, "model.mask_head.mask_feature_head.in_channels": 32},
        ALL,
        "",
    ),
    "nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco": (TINY, ALL, ""),
    "pisa/retinanet-r50_fpn_pisa_1x_coco": (TINY, ALL, ""),
    "reppoints/reppoints-moment_r50_fpn_1x_coco": (TINY, DENSE, "branches reads the other"),
    "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco": ({}, DENSE, "SSDHead, which lacks a"),
    "retinanet/retinanet_r18_fpn_1x_coco": (
        {**TINY, "model.bbox_head.type": "RetinaSepBNHead", "model.bbox_head.num_ins": 5},
        DENSE,
        "RetinaSepBNHead, which lacks a stack of convolutions for each branch",
    ),
    "rtmdet/rtmdet_tiny_8xb32-300e_coco": ({}, DENSE, "RTMDetSepBNHead, which lacks a stack"),
    "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco": (
        {},
        (),
        "RTMDetInsSepBNHead, which changes forward and loss_by_feat of RTMDetHead",
    ),
    "fsaf/fsaf_r50_fpn_1x_coco": (
        TINY,
        (),
        "FSAFHead, which changes forward_single and loss_by_feat of RetinaHead",
    ),
    "guided_anchoring/ga-retinanet_r50_fpn_1x_coco": (
        TINY,
        (),
        "GARetinaHead, which changes forward and forward_single and loss_by_feat of AnchorHead",
    ),
    "tood/tood_r50_fpn_1x_coco": (TINY, (), "TOODHead, which changes forward and .* of ATSSHead"),
    "yolof/yolof_r50-c5_8xb8-1x_coco": (
        {**RESNET, "model.neck.in_channels": 64},
        (),
        "YOLOFHead, which changes .* of AnchorHead",
    ),
    "yolact/yolact_r50_1xb8-55e_coco": (RESNET, (), "YOLACTHead, which changes .* of AnchorHead"),
    "foveabox/fovea_r50_fpn_4xb4-1x_coco": (TINY, (), "FoveaHead, whose responses detkds does not"),
    "sabl/sabl-retinanet_r50_fpn_1x_coco": (TINY, (), "SABLRetinaHead, whose responses detkds"),
    "sabl/sabl-faster-rcnn_r50_fpn_1x_coco": (
        {**RESNET, "model.train_cfg.rcnn.sampler.num": 16},
        (),
        "not coded by DeltaXYWHBBoxCoder",
    ),
    "centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco": (
        TINY,
        (),
        "CenterNetUpdateHead, whose responses detkds does not read",
    ),
    "centernet/centernet_r18_8xb16-crop512-140e_coco": ({}, (), "CenterNetHead, whose responses"),
    "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco": ({}, (), "YOLOV3Head, whose responses detkds"),
    "yolox/yolox_nano_8xb8-300e_coco": ({}, (), "YOLOXHead, whose responses detkds does not read"),
}
OUTLINED = ("condinst", "yolact", "rtmdet/rtmdet-ins")
FORMS = {
    "global": "norm_n, l2",
    "fgbg": "mask, l1",
    "instance": "identity, l1",
    "logits": "identity, {}",
    "localization": "identity, giou",
    "cross_logits": "identity, {}",
    "cross_localization": "identity, giou",
    "label": "identity, jensen_shannon",
    "mgd": "hide_65, l2",
    "fgbg_area": "norm_hw, l1",
}


def built(config: str, seed: int = 0, options: dict | None = None) -> Any:
    torch.manual_seed(seed)
    model = model_config(f"mmdet::{config}.py", HEADS[config][0] if options is None else options)
    return build_detector(without_pretrained(model))


@cache
def known(config: str) -> Signature:
    return signature(built(config), "student")


def images(config: str) -> tuple[Tensor, list]:
    """Two images; objects have outlines for heads that need them alone, since others use them."""
    inputs, samples = batch()
    for sample in samples if config.startswith(OUTLINED) else []:
        boxes = sample.gt_instances.bboxes.int().tolist()
        masks = np.zeros((len(boxes), *sample.img_shape), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks, *sample.img_shape)
    return inputs, samples


def form_of(knowledge: tuple[str, ...], found: Signature) -> Distiller:
    """A term of each knowledge; logits compare by quality focal loss where the pair can."""

    def one(name: str) -> str:
        focal = "quality_focal" not in excluded(name, found, found)
        return f"{name}: {FORMS[name].format('quality_focal' if focal else 'l2')}"

    return Distiller.parse("; ".join(map(one, knowledge)))


@pytest.mark.parametrize("config", HEADS)
def test_a_head_is_distilled_by_all_that_it_shares(config: str) -> None:
    _, shared, _ = HEADS[config]
    found = known(config)
    available = available_knowledge(found, found)
    assert set(available) - {LABEL} == {*FEATURES, *shared}
    MessageHub.get_current_instance().update_info(
        "epoch", 0
    )  # as a runner does; TOOD's head asks for the epoch
    model = DistilledDetector(built(config), built(config, 1), form_of(available, found)).train()
    losses = model.loss(*images(config))
    assert {f"loss_{name}" for name in available} <= losses.keys()
    assert all(bool(torch.as_tensor(losses[f"loss_{name}"]).isfinite()) for name in available)
    terms = {name: losses[f"loss_{name}"] for name in available}
    total({f"loss_{name}": value for name, value in terms.items()}).backward()
    trained = model.student.backbone.parameters()
    assert any(p.grad is not None and bool(p.grad.any()) for p in trained)


@pytest.mark.parametrize("config", HEADS)
def test_what_it_does_not_share_is_refused_with_the_reason(config: str) -> None:
    _, shared, reason = HEADS[config]
    found = known(config)
    left = [name for name in (*RESPONSE_KNOWLEDGE, *CROSS_KNOWLEDGE) if name not in shared]
    assert bool(left) == bool(reason)
    for name in left:
        with pytest.raises(WrongUse, match=reason) as error:
            check_pair(form_of((name,), found), found, replace(found, name="teacher"))
        assert "\n" not in str(error.value)


COUNTERS = {
    "ddod/ddod_r50_fpn_1x_coco": ("bbox_head", "cls_num_pos_samples_per_level"),
    "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco": ("roi_head", "iou_history"),
}


@pytest.mark.parametrize("config", COUNTERS)
def test_what_a_head_counts_is_of_its_own_maps_alone(config: str) -> None:
    """The second loss, for `label`, leaves the counters alone."""
    form = Distiller.parse("label: identity, jensen_shannon")
    alone, both = (built(config, 0, TINY if "ddod" in config else RESNET) for _ in range(2))
    counted = []
    for model in (alone, DistilledDetector(both, None, form)):
        torch.manual_seed(0)
        model.train().loss(*batch())
        head, counter = COUNTERS[config]
        counted.append(getattr(getattr(getattr(model, "student", model), head), counter))
    assert sum(counted[0]) > 0
    assert counted[0] == counted[1]


READ = [config for config, (_, shared, _) in HEADS.items() if "logits" in shared]


@pytest.mark.parametrize("config", READ)
def test_it_answers_in_evaluation_as_in_training(config: str) -> None:
    """In training, some heads predict in other units, or twice."""
    model = still(built(config))
    with Tap(model, responses=True) as tap, torch.no_grad():
        model.loss(*images(config))
    student = tap.knowledge
    model.eval()
    teacher = teacher_knowledge(model, *images(config), responses=True)
    for name in ("logits", "localization"):
        for ours, theirs in zip(getattr(student, name), getattr(teacher, name), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        c
        for c in READ
        if c.startswith(("ddod", "paa", "ld", "vfnet", "condinst", "nas_fcos", "rtm"))
    ],
)
def test_positives_are_where_its_own_loss_trains_boxes(config: str) -> None:
    """The box loss of these heads gets only the positives, at once or level by level."""
    model = still(built(config))
    trained: list[Tensor] = []

    def keep(module: Any, args: tuple, kwargs: dict) -> None:
        if (
            kwargs.get("reduction_override") != "none"
        ):  # PAA also calls the loss to weigh candidates
            trained.append(args[0].detach())

    model.bbox_head.loss_bbox.register_forward_pre_hook(keep, with_kwargs=True)
    with Tap(model, responses=True) as tap:
        model.loss(*images(config))
    known = tap.knowledge
    assert [p.shape for p in known.positives] == [
        level[:, 0].flatten(1).shape for level in known.logits
    ]
    count = sum(int(level.sum()) for level in known.positives)
    assert count == sum(map(len, trained)) > 0


def test_a_head_of_ones_own_is_read_unless_it_changes_what_is_read() -> None:
    model = thin_detector("retinanet")
    stock = type(model.bbox_head)

    def reads(**own: Any) -> Signature:
        model.bbox_head.__class__ = type("OwnHead", (stock,), own)
        return signature(model, "student")

    assert reads(loss_by_feat_single=stock.loss_by_feat_single).responses is not None
    for method in ("forward_single", "loss_by_feat", "get_targets"):
        found = reads(**{method: getattr(stock, method)})
        assert (found.responses, found.layers) == (None, None)
        assert found.unread == f"has the OwnHead, which changes {method} of RetinaHead"
