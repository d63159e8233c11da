"""Thin pairs of dense detectors for CrossKD's tests, whose heads predict something."""

from __future__ import annotations

from typing import Any

import torch
from detkds.distillers import DistilledDetector
from detkds.space import Distiller
from thin_detectors import batch, still, thin_detector
from torch import Tensor

HEADS = ("retinanet", "fcos", "fcos_norm_on_bbox", "atss", "gfl")
STACKED = 3
LAYERS = STACKED + 1  # the paper's n
LAST = {
    "retinanet": ("retina_cls", "retina_reg"),
    "fcos": ("conv_cls", "conv_reg"),
    "fcos_norm_on_bbox": ("conv_cls", "conv_reg"),
    "atss": ("atss_cls", "atss_reg"),
    "gfl": ("gfl_cls", "gfl_reg"),
}


def detector(family: str, seed: int, stacked: int = STACKED, **options: Any) -> Any:
    """Its head predicts something: as it is initialised it hardly does.

    Its scales and running statistics, all 1 and 0 at first, are its own.
    """
    built = thin_detector(family, seed, **{"model.bbox_head.stacked_convs": stacked, **options})
    torch.manual_seed(seed)
    for module in built.bbox_head.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
    torch.nn.init.constant_(getattr(built.bbox_head, LAST[family][0]).bias, -1.0)
    if family == "fcos_norm_on_bbox":  # no box without an area, of which no two formulas agree
        torch.nn.init.constant_(built.bbox_head.conv_reg.bias, 1.0)
    for scale in getattr(built.bbox_head, "scales", []):
        torch.nn.init.uniform_(scale.scale, 0.5, 1.5)
    for norm in built.bbox_head.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return built


def distilled(family: str, text: str, **teacher: Any) -> DistilledDetector:
    pair = detector(family, 0), detector(family, 1, **teacher)
    return DistilledDetector(still(pair[0]), pair[1], Distiller.parse(text))


def both(family: str, position: int | str) -> str:
    where = f"after_{position}" if isinstance(position, int) else position
    box = "kl" if family == "gfl" else "giou"
    return f"cross_logits: {where}, quality_focal; cross_localization: {where}, {box}"


def padded() -> tuple[Tensor, list]:
    """The batch of two, where only 48 rows and 44 columns of the first image are not padding."""
    inputs, samples = batch()
    samples[0].set_metainfo({"img_shape": (48, 44)})
    return inputs, samples


def cross_losses(model: DistilledDetector) -> dict[str, Tensor]:
    losses = model.loss(*padded())
    return {name: value for name, value in losses.items() if name.startswith("loss_cross")}


def learned(part: Any) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


def spelled_out(family: str, head: Any, branch: int, level: int, x: Tensor, start: int) -> Tensor:
    """Raw predictions of one level: layers ``start`` + 1 to n of one branch, called by name."""
    stack = (head.cls_convs, head.reg_convs)[branch]
    for conv in list(stack)[start:]:
        x = conv(x)
    x = getattr(head, LAST[family][branch])(x)
    if branch == 1 and family != "retinanet":
        x = head.scales[level](x)
    if branch == 1 and family == "fcos":
        x = x.exp()
    if branch == 1 and family == "fcos_norm_on_bbox":
        x = x.clamp(min=0)  # times the stride in evaluation: a scale, the same for both boxes
    return x


def before_activation(conv: Any, x: Tensor) -> Tensor:
    x = conv.conv(x)
    return conv.norm(x) if conv.with_norm else x


def through(head: Any, branch: int, x: Tensor, layers: int) -> Tensor:
    """Layers 1 to ``layers`` of a branch, without the activation of the last."""
    if not layers:
        return x
    stack = list((head.cls_convs, head.reg_convs)[branch])
    for conv in stack[: layers - 1]:
        x = conv(x)
    return before_activation(stack[layers - 1], x)


def rows(raw: Tensor, channels: int) -> Tensor:
    """(N, A·C, H, W) to (N·H·W·A, C), as mmdet's heads flatten their predictions."""
    return raw.permute(0, 2, 3, 1).reshape(-1, channels)
