"""Operators of ``mmcv._ext`` by torchvision, with the names and signatures of mmcv 2.1.

Like the compiled operators, they write their results into tensors that the caller gives. RoIPool is
missing: torchvision rounds the boxes to whole pixels first, mmcv does not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torchvision
from torch import Tensor

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms",
    "roi_align_backward",
    "roi_align_forward",
]


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (N, 4) that are kept, best score first.

    A box is kept if its IoU with every kept box of higher score is at most ``iou_threshold``. A box
    is x2 - x1 + ``offset`` wide.
    """
    extents = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(extents, scores, iou_threshold)


#: A coordinate in pixels that lies outside of every map.
FAR = 1e6


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average features (N, C, H, W) in the bins of ``rois`` (K, 5) into (K, C, height, width).

    Raises :class:`NotImplementedError` for ``pool_mode`` 0 (maximum), which torchvision lacks.
    """
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs the compiled mmcv; use pool_mode='avg'"
        )
    pooled = torch.ops.torchvision.roi_align(
        input,
        _readable(rois),
        spatial_scale,
        aligned_height,
        aligned_width,
        sampling_ratio,
        aligned,
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient with respect to the features into ``grad_input`` (N, C, H, W)."""
    bins = (spatial_scale, aligned_height, aligned_width)
    gradient = torch.ops.torchvision._roi_align_backward(
        grad_output, _readable(rois), *bins, *grad_input.shape, sampling_ratio, aligned
    )
    grad_input.copy_(gradient)


def _readable(places: Tensor) -> Tensor:
    """The coordinates ``places`` with :data:`FAR` instead of NaN and infinity.

    torchvision reads memory at NaN without a check, which ends the process. With FAR, a model that
    has diverged ends its own trial only.
    """
    return places.nan_to_num(nan=FAR, posinf=FAR, neginf=-FAR)


# mmcv's names for the geometry of the two deformable convolutions, in torchvision's order.
_PLAIN = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
_MODULATED = (
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("group", "deformable_group"),
)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Write the deformable convolution (Dai 2017) of ``input`` (N, C, H, W) into ``output``."""
    numbers = [geometry[name] for name in _PLAIN]
    output.copy_(_deform_conv(input, weight, offset, None, None, numbers))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Write the gradients with respect to the input and the offsets."""
    numbers = [geometry[name] for name in _PLAIN]
    gradients = _deform_conv_gradients(grad_output, input, weight, offset, None, None, numbers)
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Write the gradient with respect to the weight."""
    numbers = [geometry[name] for name in _PLAIN]
    # A convolution is linear: the gradient of its weight does not depend on the weight's value.
    weight = torch.zeros_like(grad_weight)
    gradients = _deform_conv_gradients(grad_output, input, weight, offset, None, None, numbers)
    grad_weight.copy_(gradients[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Write the modulated deformable convolution (Zhu 2019) of (N, C, H, W) into ``output``."""
    numbers = [geometry[name] for name in _MODULATED]
    offset, mask = (_as_read(places, output) for places in (offset, mask))
    output.copy_(_deform_conv(input, weight, offset, mask, bias if with_bias else None, numbers))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Write the gradients with respect to input, weight, offsets, mask and bias."""
    numbers = [geometry[name] for name in _MODULATED]
    offset, mask, grad_offset, grad_mask = (
        _as_read(places, grad_output) for places in (offset, mask, grad_offset, grad_mask)
    )
    gradients = _deform_conv_gradients(
        grad_output, input, weight, offset, mask, bias if with_bias else None, numbers
    )
    targets = [grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] * with_bias)]
    for target, gradient in zip(targets, gradients, strict=False):
        target.copy_(gradient)


def _as_read(places: Tensor, output: Tensor) -> Tensor:
    """A view of offsets or of a mask, in the output's size, as the compiled operator reads them.

    DyHead gives offsets and masks of a finer level than the output. The compiled operator then
    takes the first numbers of each image, in memory order, for a map of the output's size. Trained
    DyHeads depend on this order.
    """
    channels, size = places.shape[1], output.shape[-2:]
    read = places.flatten(1)[:, : channels * size.numel()]
    return read.unflatten(1, (channels, *size))


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    numbers: Iterable[int],
) -> Tensor:
    tensors = (input, weight, _readable(offset), *_mask_and_bias(input, weight, mask, bias))
    return torch.ops.torchvision.deform_conv2d(*tensors, *numbers, mask is not None)


def _deform_conv_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    numbers: Iterable[int],
) -> tuple[Tensor, ...]:
    """Gradients with respect to input, weight, offset, mask and bias."""
    tensors = (input, weight, _readable(offset), *_mask_and_bias(input, weight, mask, bias))
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output, *tensors, *numbers, mask is not None
    )


def _mask_and_bias(
    input: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mask and the bias as tensors, which torchvision requires: zeros for None."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = input.new_zeros(len(weight)) if bias is None else bias
    return mask, bias
