"""Thin real mmdet detectors and batches for tests: stock configs, narrow and without weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detkds.detectors import build_detector, model_config
from detkds.space import Distiller
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

CLASSES = 4

STOCK = {
    "retinanet": "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
    "fcos": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "fcos_norm_on_bbox": (
        "mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py"
    ),
    "gfl": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "atss": "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "paa": "mmdet::paa/paa_r50_fpn_1x_coco.py",
    "faster_rcnn": "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mask_rcnn": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
}
ONE_STAGE = ("retinanet", "fcos", "fcos_norm_on_bbox", "gfl", "atss")

ALL_TERMS = Distiller.parse(
    """global: catt → scale_2 → norm_n, l1 × 5; fgbg: local_4 → norm_hw, l1
    instance: catt → scale_1 → norm_c, smooth_l1; logits: norm_n, pearson
    localization: sigmoid, ciou × 2"""
)
FEATURE_TERMS = Distiller(ALL_TERMS.terms[:3])


def thin_config(family: str, neck: int = 16, **options: Any) -> ConfigDict:
    """A stock model with 8 channels in its first stage and ``neck`` in its neck."""
    width = {
        "model.backbone.depth": 18,
        "model.backbone.base_channels": 8,
        "model.backbone.stem_channels": 8,
        "model.backbone.frozen_stages": -1,
        "model.backbone.norm_cfg": {"type": "BN", "requires_grad": True},
        "model.backbone.norm_eval": False,
        "model.backbone.init_cfg": None,
        "model.neck.in_channels": [8, 16, 32, 64],
        "model.neck.out_channels": neck,
    }
    if not family.endswith("rcnn"):
        head = _one_stage(family, neck)
    else:
        head = {**_two_stage(neck), **(_masks(neck) if family == "mask_rcnn" else {})}
    return model_config(STOCK[family], {**width, **head, **options})


def _one_stage(family: str, neck: int) -> dict[str, Any]:
    head = {"in_channels": neck, "feat_channels": 16, "stacked_convs": 1, "num_classes": CLASSES}
    if family != "retinanet":
        head["norm_cfg"] = {"type": "GN", "num_groups": 4}
    return {f"model.bbox_head.{name}": value for name, value in head.items()}


def _two_stage(neck: int) -> dict[str, Any]:
    return {
        "model.rpn_head.in_channels": neck,
        "model.rpn_head.feat_channels": 16,
        "model.roi_head.bbox_roi_extractor.out_channels": neck,
        "model.roi_head.bbox_head.in_channels": neck,
        "model.roi_head.bbox_head.fc_out_channels": 16,
        "model.roi_head.bbox_head.num_classes": CLASSES,
    }


def _masks(neck: int) -> dict[str, Any]:
    return {
        "model.roi_head.mask_roi_extractor.out_channels": neck,
        "model.roi_head.mask_head.in_channels": neck,
        "model.roi_head.mask_head.conv_out_channels": 16,
        "model.roi_head.mask_head.num_classes": CLASSES,
    }


def thin_detector(family: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    detector = build_detector(thin_config(family, **options))
    detector.init_weights()
    return detector


def still(detector: Any) -> Any:
    """In training mode, but batch normalisation as in evaluation: the same maps in both modes."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return detector


def batch(size: int = 64, images: int = 2) -> tuple[Tensor, list[DetDataSample]]:
    """Normalised images of ``size`` x ``size`` and their ground truth of one and two boxes."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(images, 3, size, size, generator=generator)
    samples = []
    for index in range(images):
        boxes = torch.tensor([[4.0, 6, 40, 44], [30, 28, 62, 60]])[: index % 2 + 1]
        instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 3])[: len(boxes)])
        shapes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        shape = dict.fromkeys(shapes, (size, size))
        sample = DetDataSample(metainfo={**shape, "scale_factor": (1.0, 1.0), "img_id": index})
        sample.gt_instances = instances
        samples.append(sample)
    return inputs, samples


def total(losses: dict[str, Any]) -> Tensor:
    """The sum of all losses, as mmengine adds them up."""
    parts = [value for name, value in losses.items() if "loss" in name]
    sums = [torch.as_tensor(sum(p) if isinstance(p, list) else p) for p in parts]
    return torch.stack([one.mean() for one in sums]).sum()


def copies(inputs: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, list[DetDataSample]]:
    return inputs.clone(), copy.deepcopy(samples)
