"""The mathematics of the AMD loss on Triton tensors, shared by all forms of the kernels.

Functions of positions: tensors of one shape in the compute dtype (float32; float64 when an input is
float64). No libdevice: Triton's interpreter, which the tests run in, has none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import scalar

# Places in OPTIONS, which are compiled in (`launches.options`): one flat tuple, for Triton
# before 3.9 takes no nested ones.
RELEASED = tl.constexpr(0)
MASKED = tl.constexpr(1)
LOCAL = tl.constexpr(2)
POSITION_MEAN = tl.constexpr(3)
MARGIN_TERMS = tl.constexpr(4)  # 0: direct form
ATANH_TERMS = tl.constexpr(5)
SERIES = tl.constexpr(6)  # coefficients of atanh, then of arccos
# Places in `numbers`, which are arguments: a schedule of them compiles nothing.
MARGIN = tl.constexpr(0)
SCALE = tl.constexpr(1)
EPS = tl.constexpr(2)
MASK_THRESHOLD = tl.constexpr(3)
WHOLE_WEIGHTS = tl.constexpr(4)  # of p, n and g: of the whole map's D_x
QUADRANT_WEIGHTS = tl.constexpr(7)  # of each quadrant's D_x
POLYNOMIAL = tl.constexpr(10)  # coefficients of cos(m arccos q)

# Norms below this count as this in every normalisation of Eq. 7, as in F.normalize.
NORM_FLOOR = tl.constexpr(1e-12)


@triton.jit
def number(numbers, place: tl.constexpr, dtype: tl.constexpr):
    """A number of the host in the compute dtype, out of what `launches.passed` made of it."""
    if dtype == tl.float64:
        high = scalar(numbers[3 * place], tl.int64) << 42
        middle = scalar(numbers[3 * place + 1], tl.int64) << 21
        low = scalar(numbers[3 * place + 2], tl.int64)
        return (high | middle | low).to(tl.float64, bitcast=True)
    else:
        return scalar(numbers[place], dtype)


@triton.jit
def _polynomial(x, OPTIONS: tl.constexpr, first: tl.constexpr, terms: tl.constexpr):
    """sum_k OPTIONS[first + k] x^k by Horner's rule."""
    total = tl.zeros_like(x) + OPTIONS[first + terms - 1]
    for k in tl.static_range(terms - 2, -1, -1):
        total = total * x + OPTIONS[first + k]
    return total


@triton.jit
def log_sigmoid(z, OPTIONS: tl.constexpr):
    """log(sigmoid(z)) of Eq. 6 and its derivative sigmoid(-z).

    derived: with e = exp(-|z|), logsigmoid(z) = min(z, 0) - log1p(e) and log1p(e) =
    2 atanh(e / (2 + e)): no cancellation on either side of 0.
    """
    e = tl.exp(-tl.abs(z))
    w = e / (2 + e)
    series = _polynomial(w * w, OPTIONS, SERIES, OPTIONS[ATANH_TERMS])
    value = tl.where(z > 0, 0.0, z) - 2 * w * series
    slope = tl.where(z > 0, e, 1.0) / (1 + e)
    return value, slope


@triton.jit
def cos_margin(n, numbers, OPTIONS: tl.constexpr):
    """t = cos(m arccos q) of Eq. 6 and dt/dq, for n = 1 - q.

    By the host's polynomial in v = 2 n - 1 (amd/margin.py), value and slope in one Horner
    run. Direct form where there is none: theta = sqrt(2 n) * smooth(n), and
    m sin(m theta) / sin(theta) -> m^2 (1 - (m^2 - 1) theta^2 / 6) at theta = 0.
    """
    v = 2 * n - 1
    terms: tl.constexpr = OPTIONS[MARGIN_TERMS]
    if terms > 0:
        value = tl.zeros_like(n) + number(numbers, POLYNOMIAL + terms - 1, n.dtype)
        slope = tl.zeros_like(n)
        for k in tl.static_range(terms - 2, -1, -1):
            slope = slope * v + value
            value = value * v + number(numbers, POLYNOMIAL + k, n.dtype)
        slope = slope * -2.0
    else:
        positive = tl.maximum(n, 0.0)
        margin = number(numbers, MARGIN, n.dtype)
        arccos: tl.constexpr = SERIES + OPTIONS[ATANH_TERMS]
        smooth = _polynomial(v, OPTIONS, arccos, len(OPTIONS) - arccos)
        theta = tl.sqrt(2 * positive) * smooth
        value = tl.cos(margin * theta)
        near = 1e-3 / tl.maximum(margin, 1.0)
        limit = margin * margin * (1 - (margin * margin - 1) * theta * theta / 6)
        sine = tl.sqrt(positive * (2 - positive))
        slope = tl.where(
            theta < near, limit, margin * tl.sin(margin * theta) / tl.where(theta < near, 1.0, sine)
        )
        # tl.maximum drops NaN; it must reach the loss.
        value = tl.where(n == n, value, n)
    return value, slope


@triton.jit
def inverse_norm(square_sum, eps):
    """||f|| and 1 / (||f|| + eps) from sum f^2 (section 4.2). A norm of Inf becomes NaN: it is
    heard."""
    norm = tl.sqrt(square_sum)
    norm = tl.where(norm == float("inf"), float("nan"), norm)
    denominator = norm + eps
    # An all-zero map with eps = 0 has q = 0.
    return norm, tl.where(denominator == 0, 0.0, 1 / tl.where(denominator == 0, 1.0, denominator))


# The maps of Eq. 7 in the order in which they are worked on: g last, so that what it takes to
# evaluate it is not held in registers meanwhile.
TERMS = tl.constexpr(3)
P = tl.constexpr(0)
N = tl.constexpr(1)
G = tl.constexpr(2)


@triton.jit
def term_map(
    x: tl.constexpr,  # P, N or G
    f,  # attention map of one side, 0 where not valid
    valid,  # of bool
    norm,  # scalar ||f||
    inverse,  # scalar 1 / (||f|| + eps)
    numbers,
    OPTIONS: tl.constexpr,
):
    """One of the maps p, n, g of Eq. 7 (0 where not valid) and its derivative by q."""
    # derived: n = 1 - q = ((||f|| - f) + eps) / (||f|| + eps) keeps its digits where q is near 1.
    all_n = tl.where(
        inverse == 0, 1.0 + (f - f), ((norm - f) + number(numbers, EPS, f.dtype)) * inverse
    )
    n = all_n
    slope_n = tl.zeros_like(f) - 1.0
    if OPTIONS[MASKED]:  # section 5.6.1; NaN is kept
        masked = all_n <= number(numbers, MASK_THRESHOLD, f.dtype)
        n = tl.where(masked, 0.0, all_n)
        slope_n = tl.where(masked, 0.0, slope_n)
    if x == N:
        return tl.where(valid, n, 0.0), slope_n
    elif x == P and not OPTIONS[RELEASED]:
        return f * inverse, tl.zeros_like(f) + 1.0
    else:
        t, slope_t = cos_margin(all_n, numbers, OPTIONS)
        if x == P:
            return tl.where(valid, t, 0.0), slope_t
        else:
            scale = number(numbers, SCALE, f.dtype)
            g, slope_z = log_sigmoid(scale * (t - n), OPTIONS)  # Eq. 6
            return tl.where(valid, g, 0.0), slope_z * scale * (slope_t - slope_n)


@triton.jit
def unit(square_sum):
    """1 / max(||x||, floor) and |x^|^2, which is 1 unless the norm is under the floor."""
    norm = tl.sqrt(square_sum)
    clamped = norm < NORM_FLOOR
    inverse = 1 / tl.where(clamped, NORM_FLOOR, norm)
    # The ratio first: the square of a number under the floor has no digits in float32.
    ratio = norm / NORM_FLOOR
    return inverse, tl.where(clamped, ratio * ratio, 1.0)


@triton.jit
def settled(distance, positions, length_s, length_t):
    """D_x, exact for one position alone: both unit vectors are a sign there, and D is 0 or 4."""
    signs = (positions == 1) & (length_s == 1) & (length_t == 1) & (distance == distance)
    return tl.where(signs, tl.where(distance > 2, 4.0, 0.0), distance)


@triton.jit
def pull_factors(
    inverse,
    distance,
    length,
    length_other,
    positions,
    weight,
    WHOLE_MAP: tl.constexpr,
    BLOCK: tl.constexpr,  # positions that there is room for in a quadrant
):
    """What `pull` multiplies with, for one region or for each of several.

    Gradient of weight * D_x by x of one side: 2 weight / ||x|| (d - (d . x^) x^). derived: d . x^ =
    (D + |x^|^2 - |x^_other|^2) / 2. No projection where the own norm is under the floor; no
    gradient for one position alone, whose x^ is a sign, unless it is under the floor. There, a map
    of one position has one that cancels but for its 1e-12th part, which float32 cannot tell from
    rounding; a quadrant of one position in a larger map has one that counts.
    """
    projection = tl.where(length == 1, (distance + (1 - length_other)) / 2, 0.0)
    factor = 2 * weight * inverse
    # Only maps up to 3x3 have a region of one position, and quadrants of at most four. In larger
    # ones its registers are wanted for other things.
    if BLOCK <= 4:
        constant = positions == 1
        if not WHOLE_MAP or inverse.dtype == tl.float64:
            constant &= length == 1
        factor = tl.where(constant, 0.0, factor)
    return factor, projection


@triton.jit
def pull(x, x_other, inverse, inverse_other, factor, projection):
    """Gradient of weight * D_x by x of one side, at its positions."""
    normalised = x * inverse
    return ((normalised - x_other * inverse_other) - normalised * projection) * factor
