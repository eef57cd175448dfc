"""Attention transfer in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.pooling import pool_to_common_size
from amd_fused.losses._common.sides import as_list


def at_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    p: float = 2,
    mode: str = "code",
    layer_weights: Sequence[float] | None = None,
    align: str = "error",
) -> Tensor:
    """AT loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments and result as of :func:`amd_fused.at_loss` on maps [B, C, H, W]; that checks its
    arguments and is the call for users. Half precision is widened to float32 first.

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", 2017, section 3.1.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    if align == "adaptive_avg":
        students, teachers = pool_to_common_size(students, teachers)
    weights = [1.0] * len(students) if layer_weights is None else list(layer_weights)
    dtype = compute_dtype(students + teachers)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t in zip(weights, students, teachers, strict=True):
        squared = (_attention(a_s.to(dtype), p) - _attention(a_t.to(dtype), p)).square()
        # The released code averages over positions, the paper's norm adds them up.
        per_sample = squared.mean(1) if mode == "code" else squared.sum(1)
        total = total + weight * per_sample.mean()
    return total


def _attention(a: Tensor, p: float) -> Tensor:
    """Features [B, C, H, W] to ``F.normalize(a.abs().pow(p).sum(1).flatten(1))``, [B, N].

    A mean over channels, as in the released code, is the same map. Zero for an all-zero map, and
    its gradient too; no floor under the norm, so that any other map has length 1.
    """
    f = (a.square() if p == 2 else a.abs().pow(p)).sum(1).flatten(1)
    square = f.square().sum(1, keepdim=True)
    # A norm past the largest number would make q = 0, a finite loss of nothing: NaN is heard.
    square = torch.where(square == torch.inf, torch.nan, square)
    return f / torch.where(square == 0, 1.0, square).sqrt()
