"""Backward kernel of KD and its spherical form: one pass, element by element, from the logits and
the numbers of each row that the forward pass left.

The upstream gradient is applied in the compute dtype, before the cast to the logits' dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import aligned
from amd_fused.losses.kd.triton.formulas import joined, number_at


@triton.jit
def _through_norm(z, coefficient, mean):
    """0 without a norm, even for a logit of -Inf."""
    return tl.where(coefficient == 0, 0.0, coefficient * (z - mean))


@triton.jit(do_not_specialize=["positions"])
def kd_bwd_kernel(
    grad_loss,  # 0-d in the compute dtype
    student,  # [B, K, N], any strides and dtype
    teacher,  # [B, K, N], any strides and dtype
    rows,  # numbers of each position in the compute dtype: `number_at`
    d_z_s,  # [B, K, N], strides of its own, dtype of the student
    d_z_t,  # [B, K, N], strides of its own, dtype of the teacher
    positions,  # N
    width,  # K
    stride_sb,
    stride_sk,
    stride_sn,
    stride_tb,
    stride_tk,
    stride_tn,
    stride_gsb,
    stride_gsk,
    stride_gsn,
    stride_gtb,
    stride_gtk,
    stride_gtn,
    softening_high,  # 1 / tau
    softening_low,
    weight_high,  # tau^2 / (B N)
    weight_low,
    NEEDS_S: tl.constexpr,
    NEEDS_T: tl.constexpr,
    NUMBERS: tl.constexpr,
    MAP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    ALIGN: tl.constexpr,
):
    dtype = rows.dtype.element_ty
    of_classes = tl.cdiv(width, TILE)
    of_positions = tl.cdiv(positions, ROWS)
    block = tl.program_id(0) // of_classes
    b = (block // of_positions).to(tl.int64)
    n = (block % of_positions).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = (tl.program_id(0) % of_classes) * TILE + tl.arange(0, TILE)[None, :]
    mask = (n < positions)[:, None] & (k < aligned(width, ALIGN))
    n = tl.minimum(n, positions - 1)
    at = n[:, None]
    k = k.to(tl.int64)
    o_s = at * aligned(stride_sn, ALIGN) + k * stride_sk
    o_t = at * aligned(stride_tn, ALIGN) + k * stride_tk
    z_s = tl.load(student + b * stride_sb + o_s, mask=mask, other=0.0).to(dtype)
    z_t = tl.load(teacher + b * stride_tb + o_t, mask=mask, other=0.0).to(dtype)
    weight = tl.load(grad_loss) * joined(weight_high, weight_low, dtype)
    row, step = number_at(rows, b, at, positions, NUMBERS, MAP)
    a_s = joined(softening_high, softening_low, dtype)
    a_t = a_s
    if NUMBERS > 5:
        a_s = tl.load(row + 5 * step)
        a_t = tl.load(row + 6 * step)
    u = a_s * (z_s - tl.load(row))
    v = a_t * (z_t - tl.load(row + step))
    inverse_t = tl.load(row + 3 * step)
    # Lanes without data have exponents of any size.
    p = tl.exp(tl.where(mask, v, 0.0)) * inverse_t
    if NEEDS_S:
        q = tl.exp(tl.where(mask, u, 0.0)) * tl.load(row + 2 * step)
        # derived: dKL/dz_s = a_s (q - p), and through the norm.
        gradient = a_s * (q - p)
        if NUMBERS > 5:
            gradient += _through_norm(z_s, tl.load(row + 7 * step), tl.load(row + 8 * step))
        gradient = tl.where(inverse_t == 0, 0.0, weight * gradient)
        o_gs = at * aligned(stride_gsn, ALIGN) + k * stride_gsk
        tl.store(d_z_s + b * stride_gsb + o_gs, gradient, mask=mask)
    if NEEDS_T:
        # derived: dKL/dz_t = a_t p ((v - u) - E_p[v - u]), and through the norm. A masked class
        # has p = 0, or NaN where the row has one.
        gap = tl.load(row + 4 * step)
        gradient = a_t * tl.where((v == float("-inf")) & (u == u), p, p * ((v - u) - gap))
        if NUMBERS > 5:
            gradient += _through_norm(z_t, tl.load(row + 9 * step), tl.load(row + 10 * step))
        gradient = tl.where(inverse_t == 0, 0.0, weight * gradient)
        o_gt = at * aligned(stride_gtn, ALIGN) + k * stride_gtk
        tl.store(d_z_t + b * stride_gtb + o_gt, gradient, mask=mask)
