"""Forward kernels of KD and its spherical form: a tile of positions in registers, or the many
classes of one in blocks. Logits are [B, K, N]; a matrix [B, K] is one map with B positions. The
mathematics is in `formulas.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import aligned, scalar
from amd_fused.losses.kd.triton.formulas import (
    STD,
    apart,
    below,
    divergences,
    factors,
    joined,
    leave,
    log_ratio,
    norm_of,
    zero_of,
)


@triton.jit
def _row_norm(z, x, maximum, mask, width, NORM: tl.constexpr):
    """Norm and mean [ROWS] of rows that are in registers."""
    if NORM == STD:
        # x is exactly 0 in a row of equal logits.
        mean = tl.sum(x, axis=1) / width
        deviation = tl.where(mask, x - mean[:, None], 0.0)
        return norm_of(tl.sum(deviation * deviation, axis=1), width - 1.0), maximum + mean
    else:
        return norm_of(tl.sum(z * z, axis=1), 1.0), 0 * maximum


@triton.jit(do_not_specialize=["positions"])
def kd_row_fwd_kernel(
    student,  # [B, K, N], any strides and dtype
    teacher,  # [B, K, N], any strides and dtype
    counted,  # [B, N] uint8 where MASKED
    losses,  # [B N] in the compute dtype: each position's share
    rows,  # numbers of each position in the compute dtype: `number_at`
    positions,  # N
    width,  # K <= TILE
    stride_sb,
    stride_sk,
    stride_sn,
    stride_tb,
    stride_tk,
    stride_tn,
    softening_high,  # 1 / tau
    softening_low,
    radius_high,
    radius_low,
    weight_high,  # tau^2 / (B N)
    weight_low,
    NORM: tl.constexpr,
    FIXED_RADIUS: tl.constexpr,
    NUMBERS: tl.constexpr,
    MAP: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    dtype = losses.dtype.element_ty
    blocks = tl.cdiv(positions, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = n < positions
    n = tl.minimum(n, positions - 1)  # the last one again, and nothing of it is stored
    k = tl.arange(0, TILE)[None, :]
    mask = (k < aligned(width, ALIGN)) & (n >= 0)[:, None]
    o_s = (n * aligned(stride_sn, ALIGN))[:, None] + k.to(tl.int64) * stride_sk
    o_t = (n * aligned(stride_tn, ALIGN))[:, None] + k.to(tl.int64) * stride_tk
    z_s = tl.load(student + b * stride_sb + o_s, mask=mask, other=0.0).to(dtype)
    z_t = tl.load(teacher + b * stride_tb + o_t, mask=mask, other=0.0).to(dtype)
    max_s = tl.max(tl.where(mask, z_s, float("-inf")), axis=1)
    max_t = tl.max(tl.where(mask, z_t, float("-inf")), axis=1)
    x = tl.where(mask, below(z_s, max_s[:, None]), 0.0)
    y = tl.where(mask, below(z_t, max_t[:, None]), 0.0)

    classes = scalar(width, dtype)
    norm_s, mean_s = zero_of(max_s), zero_of(max_s)
    norm_t, mean_t = zero_of(max_t), zero_of(max_t)
    if NORM:
        norm_s, mean_s = _row_norm(z_s, x, max_s, mask, classes, NORM)
        norm_t, mean_t = _row_norm(z_t, y, max_t, mask, classes, NORM)
    softening = joined(softening_high, softening_low, dtype)
    radius = joined(radius_high, radius_low, dtype)
    a_s, a_t = factors(norm_s, norm_t, softening, radius, NORM, FIXED_RADIUS)

    u = a_s[:, None] * x
    v = a_t[:, None] * y
    e_u = tl.where(mask, tl.exp(u), 0.0)
    e_v = tl.where(mask, tl.exp(v), 0.0)
    gap = apart(u, v)
    e_gap = e_v * gap
    exp_u = tl.sum(e_u, axis=1)
    exp_v = tl.sum(e_v, axis=1)
    exp_gap = tl.sum(e_gap, axis=1)
    divergence = divergences(e_u, e_v, gap, exp_u, exp_v)
    exp_u_x, exp_v_x, exp_v_y, exp_gap_y = 0 * exp_u, 0 * exp_u, 0 * exp_u, 0 * exp_u
    if NORM:
        exp_u_x = tl.sum(e_u * x, axis=1)
        exp_v_x = tl.sum(e_v * x, axis=1)
        if FIXED_RADIUS:
            exp_v_y = tl.sum(e_v * y, axis=1)
            exp_gap_y = tl.sum(e_gap * y, axis=1)
    leave(
        losses, rows, counted, b, n, positions, valid,
        joined(weight_high, weight_low, dtype) * divergence,
        classes - 1 if NORM == STD else 1.0,
        max_s, max_t, a_s, a_t, norm_s, norm_t, mean_s, mean_t,
        exp_u, exp_v, exp_gap, exp_u_x, exp_v_x, exp_v_y, exp_gap_y, NORM, FIXED_RADIUS,
        NUMBERS, MAP, MASKED,
    )  # fmt: skip


@triton.jit
def _wide_extent(
    z, stride, first, width, TILE: tl.constexpr, ALIGN: tl.constexpr, NORM: tl.constexpr
):
    """Maximum, norm and mean of a row in blocks. Deviations lane by lane (Welford 1962), then over
    the lanes."""
    dtype = first.dtype
    lane = tl.arange(0, TILE)
    maximum = tl.full([TILE], float("-inf"), dtype)
    mean = tl.zeros([TILE], dtype)
    square = tl.zeros([TILE], dtype)
    count = tl.zeros([TILE], dtype)
    for begin in range(0, width, TILE):
        k = begin + lane
        mask = k < aligned(width, ALIGN)
        value = tl.load(z + k.to(tl.int64) * stride, mask=mask, other=0.0).to(dtype)
        maximum = tl.maximum(maximum, tl.where(mask, value, float("-inf")))
        if NORM == STD:
            count += tl.where(mask, 1.0, 0.0)
            deviation = tl.where(mask, value - mean, 0.0)
            mean += deviation / count
            square += deviation * (value - mean)
        else:
            square += value * value
    if NORM == STD:
        # From the row's first number: 0 in a row of equal logits.
        whole = tl.sum(count * (mean - first)) / width
        deviation = (mean - first) - whole
        norm = norm_of(tl.sum(square) + tl.sum(count * deviation * deviation), width - 1.0)
        return tl.max(maximum), norm, first + whole
    else:
        return tl.max(maximum), norm_of(tl.sum(square), 1.0), 0 * first


@triton.jit(do_not_specialize=["positions"])
def kd_wide_fwd_kernel(
    student,  # [B, K, N], any strides and dtype
    teacher,  # [B, K, N], any strides and dtype
    counted,  # [B, N] uint8 where MASKED
    losses,  # [B N] in the compute dtype: each position's share
    rows,  # numbers of each position in the compute dtype: `number_at`
    positions,  # N
    width,  # K >= TILE
    stride_sb,
    stride_sk,
    stride_sn,
    stride_tb,
    stride_tk,
    stride_tn,
    softening_high,  # 1 / tau
    softening_low,
    radius_high,
    radius_low,
    weight_high,  # tau^2 / (B N)
    weight_low,
    NORM: tl.constexpr,
    FIXED_RADIUS: tl.constexpr,
    NUMBERS: tl.constexpr,
    MAP: tl.constexpr,
    MASKED: tl.constexpr,
    ALIGN: tl.constexpr,
    TILE: tl.constexpr,
):
    """One position a program. The maxima are those of the blocks so far (online softmax, Milakov
    and Gimelshein 2018); spherical rows have a pass of their own before for maxima and norms."""
    dtype = losses.dtype.element_ty
    b = (tl.program_id(0) // positions).to(tl.int64)
    n = (tl.program_id(0) % positions).to(tl.int64)
    row_s = student + b * stride_sb + n * aligned(stride_sn, ALIGN)
    row_t = teacher + b * stride_tb + n * aligned(stride_tn, ALIGN)
    max_s = tl.load(row_s).to(dtype)
    max_t = tl.load(row_t).to(dtype)
    norm_s, mean_s = zero_of(max_s), zero_of(max_s)
    norm_t, mean_t = zero_of(max_t), zero_of(max_t)
    if NORM:
        max_s, norm_s, mean_s = _wide_extent(row_s, stride_sk, max_s, width, TILE, ALIGN, NORM)
        max_t, norm_t, mean_t = _wide_extent(row_t, stride_tk, max_t, width, TILE, ALIGN, NORM)
    softening = joined(softening_high, softening_low, dtype)
    radius = joined(radius_high, radius_low, dtype)
    a_s, a_t = factors(norm_s, norm_t, softening, radius, NORM, FIXED_RADIUS)

    exp_u = tl.zeros([TILE], dtype)
    exp_v = tl.zeros([TILE], dtype)
    exp_gap = tl.zeros([TILE], dtype)
    exp_u_x = tl.zeros([TILE], dtype)
    exp_v_x = tl.zeros([TILE], dtype)
    exp_v_y = tl.zeros([TILE], dtype)
    exp_gap_y = tl.zeros([TILE], dtype)
    for begin in range(0, width, TILE):
        k = begin + tl.arange(0, TILE)
        mask = k < aligned(width, ALIGN)
        k = k.to(tl.int64)
        z_s = tl.load(row_s + k * stride_sk, mask=mask, other=0.0).to(dtype)
        z_t = tl.load(row_t + k * stride_tk, mask=mask, other=0.0).to(dtype)
        if NORM == 0:
            higher_s = tl.maximum(max_s, tl.max(tl.where(mask, z_s, float("-inf"))))
            higher_t = tl.maximum(max_t, tl.max(tl.where(mask, z_t, float("-inf"))))
            # 0 where all classes so far are masked: -Inf - -Inf would be NaN.
            rise_s = tl.where(higher_s == max_s, 0.0, a_s * (higher_s - max_s))
            rise_t = tl.where(higher_t == max_t, 0.0, a_t * (higher_t - max_t))
            # derived: what the sums are with the new maxima, the gap's for v - rise_t, u - rise_s.
            shrink_t = tl.exp(-rise_t)
            # Without classes so far there is nothing to raise, and the rise may be Inf.
            risen = tl.where(exp_v == 0, exp_gap, exp_gap + (rise_s - rise_t) * exp_v)
            exp_gap = shrink_t * risen
            exp_v = shrink_t * exp_v
            exp_u = tl.exp(-rise_s) * exp_u
            max_s, max_t = higher_s, higher_t
        x = tl.where(mask, below(z_s, max_s), 0.0)
        y = tl.where(mask, below(z_t, max_t), 0.0)
        u, v = a_s * x, a_t * y
        e_u = tl.where(mask, tl.exp(u), 0.0)
        e_v = tl.where(mask, tl.exp(v), 0.0)
        e_gap = e_v * apart(u, v)
        exp_u += e_u
        exp_v += e_v
        exp_gap += e_gap
        if NORM:
            exp_u_x += e_u * x
            exp_v_x += e_v * x
            if FIXED_RADIUS:
                exp_v_y += e_v * y
                exp_gap_y += e_gap * y
    exp_u, exp_v, exp_gap = tl.sum(exp_u), tl.sum(exp_v), tl.sum(exp_gap)
    # derived: KL = sum p (v - u) - (log sum e^v - log sum e^u).
    divergence = exp_gap / exp_v - log_ratio(exp_v, exp_u)
    leave(
        losses, rows, counted, b, n, positions, n < positions,
        joined(weight_high, weight_low, dtype) * divergence,
        scalar(width, dtype) - 1 if NORM == STD else 1.0,
        max_s, max_t, a_s, a_t, norm_s, norm_t, mean_s, mean_t, exp_u, exp_v, exp_gap,
        tl.sum(exp_u_x), tl.sum(exp_v_x), tl.sum(exp_v_y), tl.sum(exp_gap_y), NORM, FIXED_RADIUS,
        NUMBERS, MAP, MASKED,
    )  # fmt: skip
