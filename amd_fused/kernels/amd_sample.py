"""One sample of one layer pair held in registers: from its two attention maps to loss and dL/df."""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_math import (
    angles,
    inverse_norm,
    pull,
    pull_factors,
    settled,
    unit,
)


@triton.jit
def quadrant_of(i, height, width):
    """Number 0..3 of the quadrant that position i lies in, cut at H // 2 and W // 2 (Eq. 9)."""
    lower = (i // width) >= (height // 2)
    right = (i % width) >= (width // 2)
    return lower.to(tl.int32) * 2 + right.to(tl.int32)


@triton.jit
def quadrant_positions(height, width):
    """Positions of each quadrant: [4] of int32."""
    k = tl.arange(0, 4)
    rows = tl.where(k >= 2, height - height // 2, height // 2)
    columns = tl.where(k % 2 == 1, width - width // 2, width // 2)
    return rows * columns


@triton.jit
def by_quadrant(x, quadrant):
    """Sums of x [N] over each quadrant: [4]."""
    k = tl.arange(0, 4)[:, None]
    return tl.sum(tl.where(quadrant[None, :] == k, x[None, :], 0.0), axis=1)


@triton.jit
def at_positions(values, quadrant):
    """values [4] of the quadrants, each at its positions: [N]."""
    k = tl.arange(0, 4)[:, None]
    return tl.sum(tl.where(quadrant[None, :] == k, values[:, None], 0.0), axis=0)


@triton.jit
def share_of(
    x: tl.constexpr,
    positions,
    in_quadrant,
    LAYER_WEIGHT: tl.constexpr,
    OPTIONS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights of D_x in the loss (Eqs. 7 and 9): of the whole map (scalar), of each quadrant ([4])."""
    LOCAL_WEIGHT: tl.constexpr = OPTIONS[3]
    WEIGHTS: tl.constexpr = OPTIONS[5]
    POSITION_MEAN: tl.constexpr = OPTIONS[8]
    count, counts = positions.to(ACC), in_quadrant.to(ACC)
    if not POSITION_MEAN:
        count, counts = tl.zeros_like(count) + 1, tl.zeros_like(counts) + 1
    # Products of compile-time numbers stay inside one expression: named, they would become float32.
    whole = (LAYER_WEIGHT * WEIGHTS[x] / 3 * (1 - LOCAL_WEIGHT)) / count
    quadrants = (LAYER_WEIGHT * WEIGHTS[x] / 12 * LOCAL_WEIGHT) / counts
    return whole, quadrants


@triton.jit
def _term(
    x_s,
    x_t,
    quadrant,
    in_quadrant,  # [4] positions of each quadrant
    positions,  # scalar, of the whole map
    weight_whole,  # scalar
    weight_quadrant,  # [4]
    LOCAL: tl.constexpr,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
):
    """Eq. 7's distance of one of the maps g, p, n: its loss, and its gradient by the map of either side."""
    grad_s, grad_t = tl.zeros_like(x_s), tl.zeros_like(x_s)
    if LOCAL:
        squares_s, squares_t = by_quadrant(x_s * x_s, quadrant), by_quadrant(x_t * x_t, quadrant)
        total_s, total_t = tl.sum(squares_s, axis=0), tl.sum(squares_t, axis=0)
    else:
        total_s, total_t = tl.sum(x_s * x_s, axis=0), tl.sum(x_t * x_t, axis=0)
    inverse_s, length_s = unit(total_s)
    inverse_t, length_t = unit(total_t)
    d = x_s * inverse_s - x_t * inverse_t
    distance = settled(tl.sum(d * d, axis=0), positions, length_s, length_t)
    loss = weight_whole * distance
    if GRAD_S:
        factor, projection = pull_factors(
            inverse_s, distance, length_s, length_t, positions, weight_whole
        )
        grad_s += pull(x_s, x_t, inverse_s, inverse_t, factor, projection)
    if GRAD_T:
        factor, projection = pull_factors(
            inverse_t, distance, length_t, length_s, positions, weight_whole
        )
        grad_t += pull(x_t, x_s, inverse_t, inverse_s, factor, projection)
    if LOCAL:
        inverse_s, length_s = unit(squares_s)
        inverse_t, length_t = unit(squares_t)
        here_s, here_t = at_positions(inverse_s, quadrant), at_positions(inverse_t, quadrant)
        d = x_s * here_s - x_t * here_t
        distances = settled(by_quadrant(d * d, quadrant), in_quadrant, length_s, length_t)
        loss += tl.sum(weight_quadrant * distances, axis=0)
        if GRAD_S:
            factor, projection = pull_factors(
                inverse_s, distances, length_s, length_t, in_quadrant, weight_quadrant
            )
            factor, projection = at_positions(factor, quadrant), at_positions(projection, quadrant)
            grad_s += pull(x_s, x_t, here_s, here_t, factor, projection)
        if GRAD_T:
            factor, projection = pull_factors(
                inverse_t, distances, length_t, length_s, in_quadrant, weight_quadrant
            )
            factor, projection = at_positions(factor, quadrant), at_positions(projection, quadrant)
            grad_t += pull(x_t, x_s, here_t, here_s, factor, projection)
    return loss, grad_s, grad_t


@triton.jit
def _map_gradient(f, u, norm, inverse):
    """derived: dL/df_i = u_i / (||f|| + eps) - (sum_j u_j f_j) / (||f|| + eps)^2 f_i / ||f||."""
    sum_uf = tl.sum(u * f, axis=0)
    radial = tl.where(norm == 0, 0.0, sum_uf * inverse * inverse / tl.where(norm == 0, 1.0, norm))
    return u * inverse - radial * f


@triton.jit
def sample_loss(
    f_s,  # [N] attention maps, 0 beyond the map
    f_t,
    i,  # [N] positions
    height,
    width,
    LAYER_WEIGHT: tl.constexpr,
    OPTIONS: tl.constexpr,  # amd.Options
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
):
    """Loss of the sample (scalar) and its derivatives by f_s and f_t ([N]; 0 if not wanted)."""
    LOCAL: tl.constexpr = OPTIONS[3] > 0
    EPS: tl.constexpr = OPTIONS[7]
    positions = height * width
    valid = i < positions
    quadrant = quadrant_of(i, height, width)
    in_quadrant = quadrant_positions(height, width)
    norm_s, inverse_s = inverse_norm(tl.sum(f_s * f_s, axis=0), EPS)
    norm_t, inverse_t = inverse_norm(tl.sum(f_t * f_t, axis=0), EPS)
    g_s, p_s, n_s, slope_g_s, slope_p_s, slope_n_s = angles(f_s, valid, norm_s, inverse_s, OPTIONS)
    g_t, p_t, n_t, slope_g_t, slope_p_t, slope_n_t = angles(f_t, valid, norm_t, inverse_t, OPTIONS)
    loss, u_s, u_t = 0.0, tl.zeros_like(f_s), tl.zeros_like(f_s)
    for x in tl.static_range(3):
        whole, local = share_of(x, positions, in_quadrant, LAYER_WEIGHT, OPTIONS, f_s.dtype)
        if x == 0:
            a, b, slope_s, slope_t = g_s, g_t, slope_g_s, slope_g_t
        elif x == 1:
            a, b, slope_s, slope_t = p_s, p_t, slope_p_s, slope_p_t
        else:
            a, b, slope_s, slope_t = n_s, n_t, slope_n_s, slope_n_t
        part, grad_s, grad_t = _term(
            a, b, quadrant, in_quadrant, positions, whole, local, LOCAL, GRAD_S, GRAD_T
        )
        loss += part
        u_s += grad_s * slope_s
        u_t += grad_t * slope_t
    if GRAD_S:
        u_s = _map_gradient(f_s, u_s, norm_s, inverse_s)
    if GRAD_T:
        u_t = _map_gradient(f_t, u_t, norm_t, inverse_t)
    return loss, u_s, u_t
