"""Correlation congruence in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.norms import unit


def cc_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    formula: str = "released",
    gamma: float = 0.4,
    order: int = 2,
) -> Tensor:
    """CC loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.cc_loss`, which checks its arguments and is the
    call for users. Half precision is widened to float32 first.

    Source: Peng et al., "Correlation Congruence for Knowledge Distillation", 2019, section 3.
    """
    dtype = compute_dtype([student, teacher])
    e_s, e_t = student.to(dtype), teacher.to(dtype)
    if formula == "released":
        difference = (e_s - e_t).abs()
        return (difference[:-1] * difference[1:]).sum(1).mean()
    with without_autocast(student.device.type):
        # Section 3: || C_s - C_t ||^2 / B^2 of the correlation matrices.
        return (_kernel(e_s, gamma, order) - _kernel(e_t, gamma, order)).square().mean()


def _kernel(e: Tensor, gamma: float, order: int) -> Tensor:
    """The Gaussian kernel of every two samples by its Taylor series, [B, B]."""
    x = unit(e)
    cosines = x @ x.T
    # Section 3, by Horner's rule: exp(-2 gamma) sum_p (2 gamma)^p / p! cos^p
    series = torch.ones_like(cosines)
    for p in range(order, 0, -1):
        series = 1 + (2 * gamma / p) * cosines * series
    return math.exp(-2 * gamma) * series
