"""What the forward kernels of KD and its spherical form share: factors, divergence, row numbers.

Both losses are KL(softmax(v) || softmax(u)) with u = a_s z_s and v = a_t z_t, one factor a row: 1 /
tau for KD, r / (tau |z|) for its spherical form. x = z_s - max z_s and y = z_t - max z_t stand for
the logits: a softmax does not see the difference, and no exponent is positive.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import scalar

# NORM: 0 for KD (amd_fused/losses/kd/operator.py).
STD = tl.constexpr(1)
L2 = tl.constexpr(2)
# A norm at or below this counts as 0 (reference/kd.py).
NORM_FLOOR = tl.constexpr(1e-12)

# What the backward pass finds of a position, in this order: maxima of the logits, 1 / sum e^u,
# 1 / sum e^v, E_p[v - u]; a_s, a_t; and for the paths through the norms, which add coefficient *
# (z - mean), the coefficients and means of student and teacher. All are 0 where a position does not
# count, 1 / sum e^v there alone. A map has the first five, for the spherical form all.
NUMBERS = 11


@triton.jit
def number_at(rows, b, n, positions, NUMBERS: tl.constexpr, MAP: tl.constexpr):
    """Where a position's first number is, and how far apart they are: rows are [B, NUMBERS, N] for
    maps and [N, NUMBERS] for a matrix."""
    if MAP:
        return rows + b * NUMBERS * positions + n, positions
    else:
        return rows + n * NUMBERS, 1


@triton.jit
def joined(high, low, dtype: tl.constexpr):
    """A number of the host out of two float32 numbers."""
    return scalar(high, dtype) + scalar(low, dtype)


@triton.jit
def norm_of(square, divisor):
    """sqrt(square / divisor); 0 up to NORM_FLOOR, and what divides by it gives 0 then. Inf becomes
    NaN, which is heard."""
    norm = tl.sqrt(square / divisor)
    norm = tl.where(norm == float("inf"), float("nan"), norm)
    return tl.where(norm <= NORM_FLOOR, 0.0, norm)


@triton.jit
def _ratio(x, norm):
    return tl.where(norm == 0, 0.0, x / tl.where(norm == 0, 1.0, norm))


@triton.jit
def factors(norm_s, norm_t, softening, radius, NORM: tl.constexpr, FIXED_RADIUS: tl.constexpr):
    """a_s and a_t."""
    a_s = softening + 0 * norm_s
    a_t = softening + 0 * norm_t
    if NORM:
        if FIXED_RADIUS:
            a_s = softening * _ratio(radius, norm_s)
            a_t = softening * _ratio(radius, norm_t)
        else:
            a_s = softening * _ratio(norm_t, norm_s)
    return a_s, a_t


@triton.jit
def zero_of(x):
    """0 in x's shape and dtype; NaN stays NaN, which 0 * x would make of Inf too."""
    return tl.where(x == x, 0.0, x)


@triton.jit
def below(z, maximum):
    """z - maximum, -Inf for a masked class even where all classes so far are masked."""
    return tl.where(z == float("-inf"), z, z - maximum)


@triton.jit
def apart(u, v):
    """v - u, which e^v multiplies. A class whose teacher logit is -Inf counts for nothing (p log p
    -> 0), whatever the student says of it, NaN apart: any finite number far from 0 stands there."""
    return tl.where((v == float("-inf")) & (u == u), -1e30, v - u)


@triton.jit
def log_ratio(a, b):
    """log(a / b), to the last bits where they are close: a small loss is a difference of such."""
    result = tl.log(a / b)
    if a.dtype == tl.float32:
        w = (a - b) / (a + b)
        w2 = w * w
        series = 2 * w * (1 + w2 * (1 / 3 + w2 * (1 / 5 + w2 * (1 / 7 + w2 * (1 / 9)))))
        result = tl.where(tl.abs(w) < 0.1, series, result)
    return result


@triton.jit
def divergences(e_u, e_v, gap, exp_u, exp_v):
    """KL [ROWS] of rows in registers, gap = apart(u, v).

    derived: with d = log p - log q, sum p d = sum p (d - 1 + e^-d), whose terms are >= 0 and begin
    with d^2 / 2: neither predictions that are close nor the last bits of exp_u and exp_v cost
    digits.
    """
    d = gap - log_ratio(exp_v, exp_u)[:, None]
    term = e_v * (d - 1) + e_u * (exp_v / exp_u)[:, None]  # p e^-d is q
    if d.dtype == tl.float32:
        near = tl.abs(d) < 0.5
        d = tl.where(near, d, 0.0)
        series = 1 / 2 - d * (1 / 6 - d * (1 / 24 - d * (1 / 120 - d * (1 / 720 - d * (
            1 / 5040 - d * (1 / 40320))))))  # fmt: skip
        term = tl.where(near, e_v * (d * d * series), term)
    return tl.sum(term, axis=1) / exp_v


@triton.jit
def _store(row, value, on, valid, MASKED: tl.constexpr):
    if MASKED:
        value = tl.where(on, value, 0.0)
    tl.store(row, value, mask=valid)


@triton.jit
def leave(
    losses, rows, counted, b, n, positions, valid, divergence, divisor,
    max_s, max_t, a_s, a_t, norm_s, norm_t, mean_s, mean_t,
    exp_u, exp_v, exp_gap,  # sums of e^u, e^v, e^v (v - u)
    exp_u_x, exp_v_x, exp_v_y, exp_gap_y,  # the same times x and y: spherical only
    NORM: tl.constexpr, FIXED_RADIUS: tl.constexpr,
    NUMBERS: tl.constexpr, MAP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Each position's share of the loss, and its numbers."""
    gap = exp_gap / exp_v
    at = b * positions + n
    on = valid
    if MASKED:
        on = tl.load(counted + at, mask=valid, other=0) != 0
    _store(losses + at, divergence, on, valid, MASKED)
    row, step = number_at(rows, b, n, positions, NUMBERS, MAP)
    _store(row, max_s, on, valid, MASKED)
    _store(row + step, max_t, on, valid, MASKED)
    _store(row + 2 * step, 1 / exp_u, on, valid, MASKED)
    _store(row + 3 * step, 1 / exp_v, on, valid, MASKED)
    _store(row + 4 * step, gap, on, valid, MASKED)
    if NUMBERS > 5:
        _store(row + 5 * step, a_s, on, valid, MASKED)
        _store(row + 6 * step, a_t, on, valid, MASKED)
        coefficient_s = zero_of(gap)
        coefficient_t = zero_of(gap)
        if NORM:
            # derived: dKL/da_s = sum (q - p) x, da_s/dz_s = -a_s / n_s^2 (z_s - mean) / divisor.
            by_a_s = exp_u_x / exp_u - exp_v_x / exp_v
            coefficient_s = -_ratio(_ratio(by_a_s * a_s, norm_s), norm_s) / divisor
            # derived: the teacher's norm is in a_t, or, as the sample's radius, in a_s.
            if FIXED_RADIUS:
                by_norm = -((exp_gap_y - gap * exp_v_y) / exp_v) * a_t
            else:
                by_norm = by_a_s * a_s
            coefficient_t = _ratio(_ratio(by_norm, norm_t), norm_t) / divisor
        _store(row + 7 * step, coefficient_s, on, valid, MASKED)
        _store(row + 8 * step, mean_s, on, valid, MASKED)
        _store(row + 9 * step, coefficient_t, on, valid, MASKED)
        _store(row + 10 * step, mean_t, on, valid, MASKED)
