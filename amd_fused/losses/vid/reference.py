"""Variational information distillation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.sides import as_list


def vid_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    rho: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-5,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """VID loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.vid_loss`, which checks its arguments and is
    the call for users. Half precision is widened to float32 first.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer", 2019.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    vectors = as_list(rho)
    weights = [1.0] * len(students) if layer_weights is None else list(layer_weights)
    dtype = compute_dtype(students + teachers)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, mean, a_t, raw in zip(weights, students, teachers, vectors, strict=True):
        # Section 2: the softplus of rho keeps the variances positive.
        variance = F.softplus(raw.to(dtype)) + eps
        squared = (mean.to(dtype) - a_t.to(dtype)).square()
        # Section 2: -log q(t|s) of a Gaussian, without its constant.
        terms = squared / variance[:, None, None] + variance.log()[:, None, None]
        total = total + weight * 0.5 * terms.mean()
    return total
