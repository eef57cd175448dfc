"""The AMD loss in plain PyTorch. Equation numbers are those of the AMD paper (Jeon, Choi, Shukla,
Turaga, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.layouts import as_map
from amd_fused.losses._common.norms import NORM_FLOOR
from amd_fused.losses._common.pooling import pool_to_common_size
from amd_fused.losses._common.sides import as_list
from amd_fused.losses.amd.options import Features, FormulaOptions, options_of, takes


@takes(FormulaOptions)
def amd_loss(student: Features, teacher: Features, **keywords: Any) -> Tensor:
    """AMD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.amd_loss`, which checks its arguments and is
    the call for users (``backend="reference"`` comes here). Half precision is widened to float32
    first.

    Source: AMD paper, Eqs. 4, 6, 7 and 9.
    """
    options = options_of(FormulaOptions, "amd_loss", keywords)
    students = as_list(student)
    teachers = as_list(teacher)
    students = [as_map("amd_loss", "student", a, options) for a in students]
    teachers = [as_map("amd_loss", "teacher", a, options) for a in teachers]
    if options.align == "adaptive_avg":
        students, teachers = pool_to_common_size(students, teachers)
    return loss_of(students, teachers, options)


def loss_of(
    students: Sequence[Tensor], teachers: Sequence[Tensor], options: FormulaOptions
) -> Tensor:
    """The loss of layer pairs whose maps have one size in each pair."""
    weights = [1.0] * len(students) if options.layer_weights is None else options.layer_weights
    local_weight = options.local_weight
    dtype = compute_dtype([*students, *teachers])

    total: Tensor | float = 0.0
    for weight, a_s, a_t in zip(weights, students, teachers, strict=True):
        maps_s, maps_t = (
            _angular_maps(a_s.to(dtype), options),
            _angular_maps(a_t.to(dtype), options),
        )
        height, width = a_s.shape[-2:]
        whole = (slice(0, height), slice(0, width))
        loss = (1 - local_weight) * _region_loss(maps_s, maps_t, whole, options)
        if local_weight > 0:
            # Eq. 9: the mean over the 2x2 quadrants, cut at H // 2 and W // 2.
            rows = (slice(0, height // 2), slice(height // 2, height))
            cols = (slice(0, width // 2), slice(width // 2, width))
            quadrants = [(r, c) for r in rows for c in cols]
            local = [_region_loss(maps_s, maps_t, quadrant, options) for quadrant in quadrants]
            loss = loss + local_weight * torch.stack(local).mean(0)
        total = total + weight * loss
    # Eq. 7: the mean over the layer pairs.
    per_sample = total / len(students)
    assert isinstance(per_sample, Tensor)
    return per_sample if options.reduction == "none" else per_sample.mean()


def cos_margin(q: Tensor, margin: float) -> Tensor:
    """``cos(margin * arccos(q))`` for q in [0, 1], with its true derivatives at q = 1 as well.

    Autograd through ``acos`` gives inf * 0 there; the limit of the first derivative is
    ``margin**2``.
    """
    return _CosMargin.apply(q, margin)


class _CosMargin(torch.autograd.Function):
    # No jvp: torch.compile refuses functions that have one.
    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, margin: float) -> Tensor:
        # Rounding may leave q an ulp above 1, where acos is NaN.
        return torch.cos(margin * torch.acos(q.clamp(max=1.0)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        q, ctx.margin = inputs
        ctx.save_for_backward(q)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (q,) = ctx.saved_tensors
        return grad * _cos_margin_slope(q, ctx.margin), None


def _cos_margin_slope(q: Tensor, margin: float) -> Tensor:
    """``m sin(m theta) / sin(theta)``; near theta = 0 its power series in 1 - q.

    Built from differentiable operations, so that second derivatives are right too. The series is
    that of ``cos(m arccos(1 - 2u)) = sum_k c_k u^k``, ``c_{k+1} = c_k (k-m)(k+m) /
    ((k+1/2)(k+1))``.
    """
    m = margin
    # Below this, five terms are exact to 1e-16: the k-th falls as (2 m^2 u)^k / (2k)!.
    near = (1 - q) < 1e-3 / max(1.0, m * m)
    theta = torch.acos(torch.where(near, 0.5, q))
    u = (1 - q) / 2
    series = torch.zeros_like(q)
    c, terms = 1.0, []
    for k in range(6):
        c = c * (k - m) * (k + m) / ((k + 0.5) * (k + 1))
        terms.append(c * (k + 1) * -0.5)  # d/dq of c_{k+1} u^{k+1}
    for term in reversed(terms):
        series = series * u + term
    return torch.where(near, series, m * torch.sin(m * theta) / torch.sin(theta))


def _angular_maps(a: Tensor, options: FormulaOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Features [B, C, H, W] to the maps g, p and n of Eq. 7, each [B, H, W]."""
    # Eq. 4: the attention map.
    f = a.square().sum(dim=1)
    # Section 4.2: the positive map, on the unit sphere of all positions. eps: the released code.
    norm = _norm(f, dim=(1, 2)) + options.eps
    # A norm past the largest number would make q = 0, a finite loss of nothing: NaN is heard.
    norm = torch.where(norm == torch.inf, torch.nan, norm)
    q_pos = f / torch.where(norm == 0, 1.0, norm)  # an all-zero map has q = 0 for eps = 0 too
    # Section 4.2: the negative map; section 5.6.1: its masked form.
    q_neg = 1 - q_pos
    if options.mask_threshold is not None:
        q_neg = q_neg * (q_neg > options.mask_threshold)
    # Eq. 6: the angle with margin; cos(arccos(q_neg)) is q_neg itself.
    t = cos_margin(q_pos, options.margin)
    # Eq. 6: the log-probability of the positive against the negative map.
    g = F.logsigmoid(options.scale * (t - q_neg))
    # Eq. 7's second term compares q; the released code compares cos(m theta) there.
    p = t if options.formula == "released" else q_pos
    return g, p, q_neg


def _region_loss(
    maps_s: Sequence[Tensor],
    maps_t: Sequence[Tensor],
    region: tuple[slice, slice],
    options: FormulaOptions,
) -> Tensor:
    """Eq. 7 for one pair of layers within one region: [B]."""
    rows, cols = region
    loss: Tensor | float = 0.0
    for weight, x_s, x_t in zip(options.component_weights, maps_s, maps_t, strict=True):
        x_s, x_t = x_s[:, rows, cols].flatten(1), x_t[:, rows, cols].flatten(1)
        squared = (_normalize(x_s) - _normalize(x_t)).square()
        distance = squared.sum(1) if options.reduction == "batchmean" else squared.mean(1)
        loss = loss + weight * distance
    assert isinstance(loss, Tensor)
    return loss / 3


def _normalize(x: Tensor) -> Tensor:
    """F.normalize(x, dim=1), with second derivatives at x = 0 too."""
    return x / _norm(x, dim=1).clamp(min=NORM_FLOOR)


def _norm(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """torch.linalg.vector_norm, whose second derivative at x = 0 is NaN; here all are 0."""
    square = x.square().sum(dim, keepdim=True)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
