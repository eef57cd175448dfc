"""Similarity-preserving distillation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.norms import NORM_FLOOR
from amd_fused.losses._common.sides import as_list


def sp_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    norm_p: float = 2,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """SP loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.sp_loss`, which checks its arguments and is the
    call for users. Half precision is widened to float32 first.

    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation", 2019, section 3.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    weights = [1.0] * len(students) if layer_weights is None else list(layer_weights)
    dtype = compute_dtype(students + teachers)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t in zip(weights, students, teachers, strict=True):
        x_s, x_t = a_s.to(dtype).flatten(1), a_t.to(dtype).flatten(1)
        # Inner products of every two samples of the batch.
        total = total + weight * similarity_distance(x_s @ x_s.T, x_t @ x_t.T, norm_p)
    return total


def similarity_distance(gram_s: Tensor, gram_t: Tensor, norm_p: float) -> Tensor:
    """``|| G^_S - G^_T ||_F^2 / B^2`` of Gram matrices [B, B], rows normalised."""
    return (_unit_rows(gram_s, norm_p) - _unit_rows(gram_t, norm_p)).square().mean()


def _unit_rows(gram: Tensor, p: float) -> Tensor:
    """F.normalize(gram, p, dim=1). A row of zeros stays zero, without gradient.

    F.normalize would give it one of 1e12 times the features.
    """
    zero = (gram == 0).all(1, keepdim=True)
    safe = torch.where(zero, 1.0, gram)
    # In units of the largest number, whose powers stay in the range of the dtype.
    largest = safe.detach().abs().amax(1, keepdim=True)
    norm = largest * torch.linalg.vector_norm(safe / largest, p, dim=1, keepdim=True)
    norm = norm.clamp(min=NORM_FLOOR)
    # A norm past the largest number would make a row of 0, as if nothing were alike: NaN is heard.
    norm = torch.where(norm == torch.inf, torch.nan, norm)
    return torch.where(zero, 0.0, safe / norm)
