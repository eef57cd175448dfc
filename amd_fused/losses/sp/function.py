"""Similarity-preserving distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused.losses._common import constant_losses, dtypes, pair_checks, value_checks
from amd_fused.losses.sp import checks, operator


def sp_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    norm_p: float = 2,
    *,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """Similarity-preserving distillation: the distance of the batch's similarity matrices.

    Computes, without a copy of the features (half precision is widened, and windows of larger
    tensors are gathered, some MiB at a time)::

        x = a.flatten(1)
        gram = F.normalize(x @ x.T, norm_p, dim=1)
        loss = (gram_student - gram_teacher).square().sum() / B**2

    for each layer pair, and adds the layers up.

    Args:
        student: features [B, C_S, H, W] or [B, D] of one layer, or a sequence of such tensors, one
            a layer. float32, float16, bfloat16 or float64, any strides.
        teacher: the matching features; only B must be the same.
        norm_p: p >= 1 of the norm that each row is divided by.
        layer_weights: one weight >= 0 a layer pair; default 1 each. The layers are added up, not
            averaged.

    Returns:
        0-d float32 tensor, float64 when an input is float64. Inner products are summed in that
        dtype whatever the features', under autocast too, so that half precision does not overflow.
        Gradients of any order flow to every input that requires one; an all-zero sample, whose row
        has no direction, gets none through it. NaN and Inf in an input reach the loss.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.

    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, section 3.
    RepDistiller's ``Similarity`` is the same function for one layer, but returns a list of tensors
    of shape [1]; torchdistill's ``SPKDLoss`` is that of norm_p=1. Both use the last feature map of
    the networks alone, with a weight of 3000.
    """
    checks.sp_options("sp_loss", norm_p=norm_p, layer_weights=layer_weights)
    students, teachers = pair_checks.sample_pairs(
        "sp_loss", student, teacher, layer_weights=layer_weights
    )
    constant_losses.warn_of_constant_relations("sp_loss", students, 1)
    value_checks.no_transforms("sp_loss", None, students + teachers)
    double = dtypes.compute_dtype(students + teachers) == torch.float64
    pairs = zip(students, teachers, strict=True)
    values = [operator.distance(a_s, a_t, norm_p, double) for a_s, a_t in pairs]
    if layer_weights is not None:
        values = [weight * v for weight, v in zip(layer_weights, values, strict=True)]
    return sum(values[1:], values[0])
