"""Backward kernel of KD and its spherical form: one pass, element by element, from the logits and
the numbers of each row that the forward pass left.

The upstream gradient is applied in the compute dtype, before the cast to the logits' dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import aligned
from amd_fused.losses.kd.triton.formulas import joined


@triton.jit
def _number(rows, b, place: tl.constexpr):
    return tl.load(rows + b * 11 + place)[:, None]


@triton.jit
def _through_norm(z, coefficient, mean):
    """0 without a norm, even for a logit of -Inf."""
    return tl.where(coefficient == 0, 0.0, coefficient * (z - mean))


@triton.jit(do_not_specialize=["batch"])
def kd_bwd_kernel(
    grad_loss,  # 0-d in the compute dtype
    student,  # [B, K], any strides and dtype
    teacher,  # [B, K], any strides and dtype
    rows,  # [B, 11] in the compute dtype, in the order that kd_fwd names
    d_z_s,  # [B, K], strides of its own, dtype of the student
    d_z_t,  # [B, K], strides of its own, dtype of the teacher
    batch,
    width,  # K
    stride_sb,
    stride_sk,
    stride_tb,
    stride_tk,
    stride_gsb,
    stride_gsk,
    stride_gtb,
    stride_gtk,
    weight_high,  # tau^2 / B
    weight_low,
    NEEDS_S: tl.constexpr,
    NEEDS_T: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    ALIGN: tl.constexpr,
):
    dtype = rows.dtype.element_ty
    blocks = tl.cdiv(width, TILE)
    b = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = (tl.program_id(0) % blocks) * TILE + tl.arange(0, TILE)[None, :]
    mask = (b < batch)[:, None] & (k < aligned(width, ALIGN))
    b = tl.minimum(b, batch - 1)
    at = b[:, None]
    k = k.to(tl.int64)
    o_s = at * aligned(stride_sb, ALIGN) + k * stride_sk
    o_t = at * aligned(stride_tb, ALIGN) + k * stride_tk
    z_s = tl.load(student + o_s, mask=mask, other=0.0).to(dtype)
    z_t = tl.load(teacher + o_t, mask=mask, other=0.0).to(dtype)
    weight = tl.load(grad_loss) * joined(weight_high, weight_low, dtype)
    a_s, a_t = _number(rows, b, 2), _number(rows, b, 3)
    u = a_s * (z_s - _number(rows, b, 0))
    v = a_t * (z_t - _number(rows, b, 1))
    # Lanes without data have exponents of any size.
    p = tl.exp(tl.where(mask, v, 0.0)) * _number(rows, b, 5)
    if NEEDS_S:
        q = tl.exp(tl.where(mask, u, 0.0)) * _number(rows, b, 4)
        # derived: dKL/dz_s = a_s (q - p), and through the norm.
        through_norm = _through_norm(z_s, _number(rows, b, 7), _number(rows, b, 8))
        gradient = weight * (a_s * (q - p) + through_norm)
        o_gs = at * aligned(stride_gsb, ALIGN) + k * stride_gsk
        tl.store(d_z_s + o_gs, gradient, mask=mask)
    if NEEDS_T:
        # derived: dKL/dz_t = a_t p ((v - u) - E_p[v - u]), and through the norm. A masked class
        # has p = 0, or NaN where the row has one.
        through_norm = _through_norm(z_t, _number(rows, b, 9), _number(rows, b, 10))
        pull = tl.where((v == float("-inf")) & (u == u), p, p * ((v - u) - _number(rows, b, 6)))
        gradient = weight * (a_t * pull + through_norm)
        o_gt = at * aligned(stride_gtb, ALIGN) + k * stride_gtk
        tl.store(d_z_t + o_gt, gradient, mask=mask)
