"""Attention-based feature distillation in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.norms import unit
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses._common.sides import as_list


def afd_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    attention: Tensor,
) -> Tensor:
    """AFD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.afd_loss`, which checks its arguments and is
    the call for users. Half precision is widened to float32 first.

    Source: Ji et al., "Show, Attend and Distill", 2021, section 3.
    """
    students = as_list(student)
    teachers = as_list(teacher)
    dtype = compute_dtype(students + teachers)
    return compare(maps(students, dtype), maps(teachers, dtype), attention)


def maps(side: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Features [B, C, H, W] to the means of their squares over channels, [B, 1, H, W]."""
    return [a.to(dtype).square().mean(1, keepdim=True) for a in side]


def means(side: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Features [B, C, H, W] to their means over positions, [B, C]."""
    return [a.mean((2, 3), dtype=dtype) for a in side]


def compare(maps_s: Sequence[Tensor], maps_t: Sequence[Tensor], attention: Tensor) -> Tensor:
    """The loss of both sides' maps, in their dtype."""
    weights = kept_by_autograd(attention.to(maps_s[0].dtype))
    values: dict[tuple[int, int], Tensor] = {}
    distances = []
    for f_t in maps_t:
        size = (f_t.shape[2], f_t.shape[3])
        if size not in values:
            # Every student map at the teacher's size, [B, S, N].
            values[size] = unit(torch.cat([_pooled(f, size) for f in maps_s], dim=1).flatten(2))
        distances.append((values[size] - unit(f_t.flatten(2))).square().mean(2))
    return (weights * torch.stack(distances, dim=1)).sum((1, 2)).mean()


def _pooled(f: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d(f, size)`` of a map [B, 1, H, W]."""
    height, width = f.shape[2:]
    if tuple(f.shape[2:]) == size:
        return f
    if size[0] % height == 0 and size[1] % width == 0:
        # Copies, for which torch's own takes ten times as long on a CPU.
        return f.repeat_interleave(size[1] // width, 3).repeat_interleave(size[0] // height, 2)
    return F.adaptive_avg_pool2d(f, size)
