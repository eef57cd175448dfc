"""Attentive feature distillation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses._common.sides import as_list


def afds_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    importance: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-6,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """AFDS loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.afds_loss`, which checks its arguments and is
    the call for users. Half precision is widened to float32 first.

    Source: Wang et al., "Pay Attention to Features, Transfer Learn Faster CNNs", 2020, section 3.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    rhos = as_list(importance)
    weights = [1.0] * len(students) if layer_weights is None else list(layer_weights)
    dtype = compute_dtype(students + teachers)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t, rho in zip(weights, students, teachers, rhos, strict=True):
        x_s, x_t = _channels(a_s.to(dtype), eps), _channels(a_t.to(dtype), eps)
        distance = (x_s - x_t).square().mean(2)
        total = total + weight * (kept_by_autograd(rho.to(dtype)) * distance).sum(1).mean()
    return total / len(students)


def _channels(a: Tensor, eps: float) -> Tensor:
    """Features [B, C, H, W] to ``x / (||x||_2 + eps)`` of each channel, [B, C, N].

    Zeros stay zeros, without gradient: a channel that is off would get one of 1 / eps.
    """
    x = a.flatten(2)
    norm = torch.linalg.vector_norm(x, dim=2, keepdim=True)
    # A norm past the largest number would make zeros of a finite channel: NaN is heard.
    norm = torch.where(norm == torch.inf, torch.nan, norm)
    return torch.where(norm == 0, 0.0, x / (norm + eps))
