"""One sample of one layer pair held in registers: from its two attention maps to loss and dL/df.

Maps are [M, 4] tiles, one column a quadrant (Eq. 9), M the largest quadrant padded to a power of
two. Numbers of quadrants are [1, 4], broadcast down their columns, those of the whole map [1, 1]:
two-dimensional throughout, because Triton changes ranks through shared memory. With quadrants
innermost a thread holds positions of one quadrant only, so that such a number takes one register
rather than four.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses.amd.triton.formulas import (
    EPS,
    LOCAL,
    POSITION_MEAN,
    QUADRANT_WEIGHTS,
    TERMS,
    WHOLE_WEIGHTS,
    inverse_norm,
    number,
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
        position [M, 4], valid [M, 4] of bool, and the positions in each quadrant [1, 4].
    """
    k, j = tl.arange(0, 4)[None, :], j[:, None]
    lower, right = k >= 2, k % 2 == 1
    rows = tl.where(lower, height - height // 2, height // 2)
    columns = tl.where(right, width - width // 2, width // 2)
    counts = rows * columns
    row_begin = tl.where(lower, height // 2, 0)
    column_begin = tl.where(right, width // 2, 0)
    divisor = tl.maximum(columns, 1)  # a one-column map has quadrants without columns
    row, column = row_begin + j // divisor, column_begin + j % divisor
    return row * width + column, j < counts, counts


@triton.jit
def column_sums(x):
    """By quadrant: [1, 4]."""
    return tl.sum(x, axis=0, keep_dims=True)


@triton.jit
def row_sum(x):
    """Over the quadrants of [1, 4]: [1, 1]."""
    return tl.sum(x, axis=1, keep_dims=True)


@triton.jit
def share_of(
    x: tl.constexpr,
    positions,
    counts,
    layer_weight,
    numbers,
    OPTIONS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights of D_x in the loss (Eqs. 7 and 9): of the whole map (scalar), of each quadrant
    ([1, 4])."""
    # A map of one row or column has empty quadrants, and no local part.
    count, many = positions.to(ACC), tl.maximum(counts, 1).to(ACC)
    if not OPTIONS[POSITION_MEAN]:
        count, many = tl.zeros_like(count) + 1, tl.zeros_like(many) + 1
    whole = layer_weight * number(numbers, WHOLE_WEIGHTS + x, ACC) / count
    quadrants = layer_weight * number(numbers, QUADRANT_WEIGHTS + x, ACC) / many
    return whole, quadrants


@triton.jit
def map_slope(
    x,  # [M, 4]
    x_other,
    squares,  # [1, 4] sums of x^2
    squares_other,
    distance,  # [1, 1], D_x of the whole map
    distances,  # [1, 4], of the quadrants
    positions,
    counts,
    weight,  # scalar
    weights,  # [1, 4]
    OPTIONS: tl.constexpr,
):
    """Gradient of all regions' D_x by the map x of one side: [M, 4]."""
    inverse, length = unit(row_sum(squares))
    inverse_other, length_other = unit(row_sum(squares_other))
    factor, projection = pull_factors(
        inverse, distance, length, length_other, positions, weight, True, x.shape[0]
    )
    slope = pull(x, x_other, inverse, inverse_other, factor, projection)
    if OPTIONS[LOCAL]:
        inverse, length = unit(squares)
        inverse_other, length_other = unit(squares_other)
        factor, projection = pull_factors(
            inverse, distances, length, length_other, counts, weights, False, x.shape[0]
        )
        slope += pull(x, x_other, inverse, inverse_other, factor, projection)
    return slope


@triton.jit
def square_difference(x_s, x_t, squares_s, squares_t):
    """(x^_s - x^_t)^2 at every position, in the regions that the sums of x^2 are of."""
    inverse_s, _ = unit(squares_s)
    inverse_t, _ = unit(squares_t)
    d = x_s * inverse_s - x_t * inverse_t
    return d * d


@triton.jit
def distances_of(squares_s, squares_t, whole, quadrants, positions, counts, BLOCK: tl.constexpr):
    """D_x of the whole map ([1, 1]) and of the quadrants ([1, 4]): by quadrant are the sums of x^2
    of either side and of `square_difference` in the whole map and in the quadrants."""
    distance = row_sum(whole)
    if BLOCK <= 4:  # as in pull_factors
        _, length_s = unit(row_sum(squares_s))
        _, length_t = unit(row_sum(squares_t))
        distance = settled(distance, positions, length_s, length_t)
        _, lengths_s = unit(squares_s)
        _, lengths_t = unit(squares_t)
        quadrants = settled(quadrants, counts, lengths_s, lengths_t)
    return distance, quadrants


@triton.jit
def map_gradient(f, u, sum_uf, norm, inverse):
    """derived: dL/df_i = u_i / (||f|| + eps) - (sum_j u_j f_j) / (||f|| + eps)^2 f_i / ||f||."""
    radial = tl.where(norm == 0, 0.0, sum_uf * inverse * inverse / tl.where(norm == 0, 1.0, norm))
    return u * inverse - radial * f


@triton.jit
def _add(a, b, to_a, to_b):
    return a + to_a, b + to_b


@triton.jit
def two_column_sums(a, b):
    """By quadrant: two of [1, 4]. A sum waits for the whole program, several times; two wait at
    once."""
    return tl.reduce((a, b), 0, _add, keep_dims=True)


@triton.jit
def sample_loss(
    f_s,  # [M, 4] attention maps, 0 where not valid
    f_t,
    valid,  # [M, 4] of bool
    counts,  # [1, 4]
    positions,
    layer_weight,
    numbers,
    OPTIONS: tl.constexpr,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
):
    """Loss of the sample ([1, 1]) and its derivatives by f_s and f_t ([M, 4]; 0 if not wanted)."""
    eps = number(numbers, EPS, f_s.dtype)
    squares_s, squares_t = two_column_sums(f_s * f_s, f_t * f_t)
    norm_s, inverse_s = inverse_norm(row_sum(squares_s), eps)
    norm_t, inverse_t = inverse_norm(row_sum(squares_t), eps)
    loss, u_s, u_t = tl.zeros_like(norm_s), tl.zeros_like(f_s), tl.zeros_like(f_s)
    for x in tl.static_range(TERMS):
        x_s, slope_s = term_map(x, f_s, valid, norm_s, inverse_s, numbers, OPTIONS)
        x_t, slope_t = term_map(x, f_t, valid, norm_t, inverse_t, numbers, OPTIONS)
        squares_s, squares_t = two_column_sums(x_s * x_s, x_t * x_t)
        whole = square_difference(x_s, x_t, row_sum(squares_s), row_sum(squares_t))
        if OPTIONS[LOCAL]:
            quadrants = square_difference(x_s, x_t, squares_s, squares_t)
            whole, quadrants = two_column_sums(whole, quadrants)
        else:
            whole = column_sums(whole)
            quadrants = tl.zeros_like(whole)
        distance, distances = distances_of(
            squares_s, squares_t, whole, quadrants, positions, counts, x_s.shape[0]
        )
        weight, weights = share_of(x, positions, counts, layer_weight, numbers, OPTIONS, f_s.dtype)
        loss += weight * distance
        if OPTIONS[LOCAL]:
            loss += row_sum(weights * distances)
        if GRAD_S:
            u_s += slope_s * map_slope(
                x_s, x_t, squares_s, squares_t, distance, distances,
                positions, counts, weight, weights, OPTIONS,
            )  # fmt: skip
        if GRAD_T:
            u_t += slope_t * map_slope(
                x_t, x_s, squares_t, squares_s, distance, distances,
                positions, counts, weight, weights, OPTIONS,
            )  # fmt: skip
    if GRAD_S and GRAD_T:
        uf_s, uf_t = two_column_sums(u_s * f_s, u_t * f_t)
        u_s = map_gradient(f_s, u_s, row_sum(uf_s), norm_s, inverse_s)
        u_t = map_gradient(f_t, u_t, row_sum(uf_t), norm_t, inverse_t)
    elif GRAD_S:
        u_s = map_gradient(f_s, u_s, row_sum(column_sums(u_s * f_s)), norm_s, inverse_s)
    elif GRAD_T:
        u_t = map_gradient(f_t, u_t, row_sum(column_sums(u_t * f_t)), norm_t, inverse_t)
    return loss, u_s, u_t
