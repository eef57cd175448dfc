"""Relational knowledge distillation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.sides import as_list


def rkd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """RKD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.rkd_loss`, which checks its arguments and is
    the call for users. Half precision is widened to float32 first. Stores [B, B, D] differences and
    [B, B, B] angles.

    Source: Park et al., "Relational Knowledge Distillation", 2019, section 3.2.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    weights = [1.0] * len(students) if layer_weights is None else list(layer_weights)
    dtype = compute_dtype(students + teachers)
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, a_s, a_t in zip(weights, students, teachers, strict=True):
        distances_s, angles_s = _relations(a_s.to(dtype).flatten(1))
        distances_t, angles_t = _relations(a_t.to(dtype).flatten(1))
        # Sections 3.2.1 and 3.2.2; the Huber loss is smooth L1.
        loss = distance_weight * F.smooth_l1_loss(distances_s, distances_t)
        loss = loss + angle_weight * F.smooth_l1_loss(angles_s, angles_t)
        total = total + weight * loss
    return total


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [B, D] to distances [B, B], in units of their mean, and cosines [B, B, B].

    cosines[i, j, k] is that of the angle at i between j and k. Two samples in the same place have
    distance 0, no direction (all their cosines are 0), and no gradient through either.
    """
    difference = x[None, :, :] - x[:, None, :]
    square = difference.square().sum(2)
    apart = square != 0
    distance = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    # Section 3.2.1: mu, the mean over the pairs that are apart.
    mean = distance.sum() / apart.sum().clamp(min=1)
    distances = distance / torch.where(mean == 0, 1.0, mean)
    # Section 3.2.2
    safe = torch.where(apart, distance, 1.0)[:, :, None]
    direction = torch.where(apart[:, :, None], difference / safe, 0.0)
    return distances, direction @ direction.mT
