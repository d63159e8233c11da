"""Operators of ``mmcv._ext`` in plain torch, with the names and signatures of mmcv 2.1.

Like the compiled operators, they write their results into tensors that the caller gives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

__all__ = [
    "get_compiler_version",
    "get_compiling_cuda_version",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """The compiler in mmcv's environment report: none."""
    return "n/a"


def get_compiling_cuda_version() -> str:
    """The CUDA compiler in mmcv's environment report: none."""
    return "n/a"


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the boxes (N, 4) that are kept, in the order of choice (Soft-NMS, Bodla 2017).

    Writes the kept boxes and their lowered scores into the first rows of ``dets`` (N, 5).
    ``method`` is 0 for a hard threshold, 1 for linear decay and 2 for Gaussian decay. A box is
    x2 - x1 + ``offset`` wide.
    """
    extents, scores = boxes + boxes.new_tensor([0, 0, offset, offset]), scores.clone()
    left = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat((boxes[best], scores[best, None]))
        kept.append(best)
        left = left[left != best]
        overlap = box_iou(extents[best, None], extents[left])[0]
        scores[left] *= _decay(overlap, method, iou_threshold, sigma)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def _decay(overlap: Tensor, method: int, iou_threshold: float, sigma: float) -> Tensor:
    if method == 2:
        return torch.exp(-(overlap**2) / sigma)
    lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
    return torch.where(overlap >= iou_threshold, lowered, torch.ones_like(overlap))


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu 2021): (N, queries, heads x channels).

    ``value`` is (N, keys, heads, channels), ``sampling_locations`` (N, queries, heads, levels,
    points, 2), x and y in [0, 1].
    """
    # mmcv's own version in plain torch. Imported late: mmcv.ops needs the stand-in to import.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, spatial_shapes.tolist(), sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Write the gradients with respect to value, sampling locations and attention weights."""
    inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0], spatial_shapes, level_start_index, *inputs[1:], im2col_step=im2col_step
        )
    gradients = torch.autograd.grad(output, inputs, grad_output)
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    for target, gradient in zip(targets, gradients, strict=True):
        target.copy_(gradient)


# Sigmoid focal loss (Lin 2017, formula 5): -a q^gamma log p. p is the probability of the truth and
# q = 1 - p; a is alpha for the target's class and 1 - alpha for every other class.


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Write the loss of each logit (N, C) into ``output``. A target of C stands for background.

    ``weight``: one factor for each class, which multiplies the rows of that class; or empty.
    """
    sign = _sign_of_truth(input, target)
    towards_truth = sign * input
    factor = _focal_factor(sign, target, weight, alpha) * torch.sigmoid(-towards_truth) ** gamma
    output.copy_(-factor * F.logsigmoid(towards_truth))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Write the derivative of the loss by each logit (N, C) into ``grad_input``.

    Its absolute value is a q^gamma (q - gamma p log p), its sign points away from the truth.
    """
    sign = _sign_of_truth(input, target)
    towards_truth = sign * input
    p, q = torch.sigmoid(towards_truth), torch.sigmoid(-towards_truth)
    factor = _focal_factor(sign, target, weight, alpha) * q**gamma
    grad_input.copy_(-sign * factor * (q - gamma * p * F.logsigmoid(towards_truth)))


def _sign_of_truth(input: Tensor, target: Tensor) -> Tensor:
    """1 where the column is the row's class, -1 elsewhere: (N, C), in float32 or wider."""
    # In half precision, powers and logarithms would lose the small losses of easy samples.
    precise = torch.promote_types(input.dtype, torch.float32)
    classes = torch.arange(input.size(1), device=input.device)
    return (target[:, None] == classes).to(precise) * 2 - 1


def _focal_factor(sign: Tensor, target: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """alpha or 1 - alpha, times the weight of the row's class: (N, C)."""
    factor = 0.5 + sign * (alpha - 0.5)
    if weight.numel() == 0:
        return factor
    # Background has no class weight: 1. The compiled operator reads past the end of `weight`.
    of_row = torch.cat((weight, weight.new_ones(1)))[target]
    return factor * of_row[:, None]
