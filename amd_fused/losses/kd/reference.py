"""Knowledge distillation and its spherical form in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.norms import NORM_FLOOR

# A norm at or below this counts as 0: the row's softmax is then uniform and its gradient 0.


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    target: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """KD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.kd_loss`, which checks its arguments and is the
    call for users (``backend="reference"`` comes here). Half precision is widened to float32 first.

    Source: AMD paper, Eq. 3; Hinton, Vinyals, Dean, 2015.
    """
    z_s, z_t = _widened(student_logits, teacher_logits)
    counted = _counted(target, ignore_index)
    return _divergence(*_of_counted(counted, z_s, z_t), temperature, counted)


def spherical_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    norm: str = "std",
    multiplier: float | None = None,
    target: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Spherical KD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.spherical_kd_loss`.

    Source: Guo et al., "Spherical Knowledge Distillation" (later "Reducing the Teacher-Student Gap
    via Spherical Knowledge Distillation"), 2020.
    """
    counted = _counted(target, ignore_index)
    z_s, z_t = _of_counted(counted, *_widened(student_logits, teacher_logits))
    z_s, z_t = spherical_logits(z_s, z_t, norm=norm, multiplier=multiplier)
    return _divergence(z_s, z_t, temperature, counted)


def spherical_logits(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    norm: str = "std",
    multiplier: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The logits of both sides, ``z / |z| * r``, in float32 or float64; 0 where |z| is 0.

    r is the multiplier, or else the sample's teacher norm, which leaves the teacher unchanged.
    """
    z_s, z_t = _widened(student_logits, teacher_logits)
    n_s, n_t = _norm(z_s, norm), _norm(z_t, norm)
    if multiplier is None:
        return z_s * _ratio(n_t, n_s), z_t
    radius = torch.full_like(n_s, multiplier)
    return z_s * _ratio(radius, n_s), z_t * _ratio(radius, n_t)


def _widened(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype([student_logits, teacher_logits])
    return student_logits.to(dtype), teacher_logits.to(dtype)


def _counted(target: Tensor | None, ignore_index: int) -> Tensor | None:
    """Which positions count [B, ...]; None: all."""
    return None if target is None else target != ignore_index


def _of_counted(counted: Tensor | None, z_s: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
    """Logits that are 0 where a position does not count, whatever they were: the divergence and its
    gradients are exactly 0 there."""
    if counted is None:
        return z_s, z_t
    on = counted.unsqueeze(1)
    return torch.where(on, z_s, 0.0), torch.where(on, z_t, 0.0)


def _divergence(
    z_s: Tensor, z_t: Tensor, temperature: float, counted: Tensor | None = None
) -> Tensor:
    """Eq. 3: tau^2 KL(teacher || student), summed over classes, averaged over the positions that
    count."""
    log_p_s = F.log_softmax(z_s / temperature, dim=1)
    log_p_t = F.log_softmax(z_t / temperature, dim=1)
    # The limit of p log p: a class that the teacher masks counts for nothing, even against another
    # mask.
    apart = torch.where(log_p_t == -torch.inf, 0.0, log_p_t - log_p_s)
    count: int | Tensor = z_s.numel() // z_s.shape[1]
    if counted is not None:
        count = counted.sum().clamp(min=1).to(z_s.dtype)
    return temperature**2 * (log_p_t.exp() * apart).sum() / count


def _norm(z: Tensor, norm: str) -> Tensor:
    """Euclidean norm or unbiased standard deviation over the classes [B, 1, ...]; 0 up to
    NORM_FLOOR, with derivatives of 0, and NaN past the range of the dtype."""
    if norm == "std":
        # Distances from one of the row's own numbers: exactly 0 in a row of equal logits, which
        # distances from their rounded mean are not. The deviation does not depend on the number.
        z = z - z.detach()[:, :1]
        z = z - z.mean(dim=1, keepdim=True)
    square = z.square().sum(dim=1, keepdim=True)
    if norm == "std":
        square = square / (z.shape[1] - 1)
    zero = square <= NORM_FLOOR**2
    length = torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
    # Squares past the range of the dtype: as NaN they are heard.
    return torch.where(length == torch.inf, torch.nan, length)


def _ratio(radius: Tensor, norm: Tensor) -> Tensor:
    zero = norm == 0
    return torch.where(zero, 0.0, radius / torch.where(zero, 1.0, norm))
