"""One sample of one layer pair held in registers: from its two attention maps to loss and dL/df.

Maps are [4, M] tiles, one row a quadrant (Eq. 9), M the largest quadrant padded to a power of two:
sums over quadrants are sums of rows, and a quadrant's number is broadcast along its row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_math import (
    TERMS,
    inverse_norm,
    pull,
    pull_factors,
    settled,
    term_map,
    unit,
)


@triton.jit
def quadrant_tile(j, height, width):
    """Quadrants cut at H // 2 and W // 2: where each one's positions j [M] lie in the map.

    Returns:
        position [4, M], valid [4, M] of bool, and the positions in each quadrant [4].
    """
    k = tl.arange(0, 4)
    lower, right = k >= 2, k % 2 == 1
    rows = tl.where(lower, height - height // 2, height // 2)
    columns = tl.where(right, width - width // 2, width // 2)
    counts = rows * columns
    row_begin = tl.where(lower, height // 2, 0)
    column_begin = tl.where(right, width // 2, 0)
    divisor = tl.maximum(columns, 1)[:, None]  # a one-column map has quadrants without columns
    row = row_begin[:, None] + j[None, :] // divisor
    column = column_begin[:, None] + j[None, :] % divisor
    return row * width + column, j[None, :] < counts[:, None], counts


@triton.jit
def share_of(
    x: tl.constexpr,
    positions,
    counts,
    LAYER_WEIGHT: tl.constexpr,
    OPTIONS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights of D_x in the loss (Eqs. 7 and 9): of the whole map (scalar), of each quadrant
    ([4])."""
    LOCAL_WEIGHT: tl.constexpr = OPTIONS[3]
    WEIGHTS: tl.constexpr = OPTIONS[5]
    POSITION_MEAN: tl.constexpr = OPTIONS[8]
    # A map of one row or column has empty quadrants, and no local part.
    count, many = positions.to(ACC), tl.maximum(counts, 1).to(ACC)
    if not POSITION_MEAN:
        count, many = tl.zeros_like(count) + 1, tl.zeros_like(many) + 1
    # Products of compile-time numbers stay inside one expression: named, they would become float32.
    # WEIGHTS are those of g, p, n; terms come as p, n, g.
    whole = (LAYER_WEIGHT * WEIGHTS[(x + 1) % 3] / 3 * (1 - LOCAL_WEIGHT)) / count
    quadrants = (LAYER_WEIGHT * WEIGHTS[(x + 1) % 3] / 12 * LOCAL_WEIGHT) / many
    return whole, quadrants


@triton.jit
def map_slope(
    x,  # [4, M]
    x_other,
    squares,  # [4] sums of x^2
    squares_other,
    distance,  # scalar, D_x of the whole map
    distances,  # [4], of the quadrants
    positions,
    counts,
    weight,  # scalar
    weights,  # [4]
    LOCAL: tl.constexpr,
):
    """Gradient of all regions' D_x by the map x of one side: [4, M]."""
    inverse, length = unit(tl.sum(squares, axis=0))
    inverse_other, length_other = unit(tl.sum(squares_other, axis=0))
    factor, projection = pull_factors(inverse, distance, length, length_other, positions, weight)
    slope = pull(x, x_other, inverse, inverse_other, factor, projection)
    if LOCAL:
        inverse, length = unit(squares)
        inverse_other, length_other = unit(squares_other)
        factor, projection = pull_factors(inverse, distances, length, length_other, counts, weights)
        slope += pull(
            x,
            x_other,
            inverse[:, None],
            inverse_other[:, None],
            factor[:, None],
            projection[:, None],
        )
    return slope


@triton.jit
def square_distance(x_s, x_t, inverse_s, inverse_t):
    """Sums over the rows of (x^_s - x^_t)^2: [4]."""
    d = x_s * inverse_s - x_t * inverse_t
    return tl.sum(d * d, axis=1)


@triton.jit
def _map_gradient(f, u, norm, inverse):
    """derived: dL/df_i = u_i / (||f|| + eps) - (sum_j u_j f_j) / (||f|| + eps)^2 f_i / ||f||."""
    return u * inverse - radial_factor(tl.sum(tl.sum(u * f, axis=1), axis=0), norm, inverse) * f


@triton.jit
def radial_factor(sum_uf, norm, inverse):
    return tl.where(norm == 0, 0.0, sum_uf * inverse * inverse / tl.where(norm == 0, 1.0, norm))


@triton.jit
def sample_loss(
    f_s,  # [4, M] attention maps, 0 where not valid
    f_t,
    valid,  # [4, M] of bool
    counts,  # [4]
    positions,
    LAYER_WEIGHT: tl.constexpr,
    OPTIONS: tl.constexpr,  # amd.options
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
):
    """Loss of the sample (scalar) and its derivatives by f_s and f_t ([4, M]; 0 if not wanted)."""
    LOCAL: tl.constexpr = OPTIONS[3] > 0
    EPS: tl.constexpr = OPTIONS[7]
    norm_s, inverse_s = inverse_norm(tl.sum(tl.sum(f_s * f_s, axis=1), axis=0), EPS)
    norm_t, inverse_t = inverse_norm(tl.sum(tl.sum(f_t * f_t, axis=1), axis=0), EPS)
    loss, u_s, u_t = tl.zeros_like(norm_s), tl.zeros_like(f_s), tl.zeros_like(f_s)
    for x in tl.static_range(TERMS):
        x_s, slope_s = term_map(x, f_s, valid, norm_s, inverse_s, OPTIONS)
        x_t, slope_t = term_map(x, f_t, valid, norm_t, inverse_t, OPTIONS)
        weight, weights = share_of(x, positions, counts, LAYER_WEIGHT, OPTIONS, f_s.dtype)
        squares_s, squares_t = tl.sum(x_s * x_s, axis=1), tl.sum(x_t * x_t, axis=1)
        inverse_x_s, length_s = unit(tl.sum(squares_s, axis=0))
        inverse_x_t, length_t = unit(tl.sum(squares_t, axis=0))
        distance = tl.sum(square_distance(x_s, x_t, inverse_x_s, inverse_x_t), axis=0)
        distance = settled(distance, positions, length_s, length_t)
        loss += weight * distance
        distances = tl.zeros_like(squares_s)
        if LOCAL:
            inverse_x_s, length_s = unit(squares_s)
            inverse_x_t, length_t = unit(squares_t)
            distances = square_distance(x_s, x_t, inverse_x_s[:, None], inverse_x_t[:, None])
            distances = settled(distances, counts, length_s, length_t)
            loss += tl.sum(weights * distances, axis=0)
        if GRAD_S:
            u_s += slope_s * map_slope(
                x_s, x_t, squares_s, squares_t, distance, distances,
                positions, counts, weight, weights, LOCAL,
            )  # fmt: skip
        if GRAD_T:
            u_t += slope_t * map_slope(
                x_t, x_s, squares_t, squares_s, distance, distances,
                positions, counts, weight, weights, LOCAL,
            )  # fmt: skip
    if GRAD_S:
        u_s = _map_gradient(f_s, u_s, norm_s, inverse_s)
    if GRAD_T:
        u_t = _map_gradient(f_t, u_t, norm_t, inverse_t)
    return loss, u_s, u_t
