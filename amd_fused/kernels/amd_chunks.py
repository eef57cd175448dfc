"""The per-sample part for maps of any size: one program a chunk of positions, one kernel a pass.

Between passes every chunk leaves sums by quadrant, and every program of the next pass adds those of its
sample in the order of the chunks: no atomics, the same bits each time. The maps are a 1/C-th of the
features, so the passes recompute g, p and n from f rather than store them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_fwd import load_map
from amd_fused.kernels.amd_math import angles, inverse_norm, pull, pull_factors, settled, unit
from amd_fused.kernels.amd_sample import (
    at_positions,
    by_quadrant,
    quadrant_of,
    quadrant_positions,
    share_of,
)

# Passes, in order. What each leaves: [B, chunks, slots, 4] sums by quadrant.
NORM = tl.constexpr(0)  # f^2 of either side: 2 slots
SQUARE = tl.constexpr(1)  # x^2 of g, p, n of either side: 6
DISTANCE = tl.constexpr(2)  # D_x with the whole map's norms, with the quadrant's: 6
SLOPE = tl.constexpr(3)  # u f of either side: 2, and u itself in d_f
GRADIENT = tl.constexpr(4)  # dL/df in d_f, and the loss


@triton.jit
def _put(sums, b, chunk, chunks, slot: tl.constexpr, SLOTS: tl.constexpr, value):
    at = ((b * chunks + chunk) * SLOTS + slot) * 4 + tl.arange(0, 4)
    tl.store(sums + at, value)


@triton.jit
def _total(sums, b, chunks, slot: tl.constexpr, SLOTS: tl.constexpr):
    """[4]: a slot's sums over all chunks of sample b."""
    TILE: tl.constexpr = 64
    total = tl.zeros((4,), sums.dtype.element_ty)
    for first in range(0, chunks, TILE):
        chunk = first + tl.arange(0, TILE)
        at = ((b * chunks + chunk) * SLOTS + slot)[:, None] * 4 + tl.arange(0, 4)[None, :]
        total += tl.sum(tl.load(sums + at, mask=(chunk < chunks)[:, None], other=0.0), axis=0)
    return total


@triton.jit
def _norms(norm_sums, b, chunks, EPS: tl.constexpr):
    norm_s, inverse_s = inverse_norm(tl.sum(_total(norm_sums, b, chunks, 0, 2), axis=0), EPS)
    norm_t, inverse_t = inverse_norm(tl.sum(_total(norm_sums, b, chunks, 1, 2), axis=0), EPS)
    return norm_s, inverse_s, norm_t, inverse_t


@triton.jit
def _distances(square_sums, distance_sums, x: tl.constexpr, b, chunks, positions, in_quadrant):
    """D_x of the whole map (scalar) and of the quadrants ([4])."""
    squares_s = _total(square_sums, b, chunks, 2 * x, 6)
    squares_t = _total(square_sums, b, chunks, 2 * x + 1, 6)
    _, length_s = unit(tl.sum(squares_s, axis=0))
    _, length_t = unit(tl.sum(squares_t, axis=0))
    whole = tl.sum(_total(distance_sums, b, chunks, 2 * x, 6), axis=0)
    _, lengths_s = unit(squares_s)
    _, lengths_t = unit(squares_t)
    quadrants = _total(distance_sums, b, chunks, 2 * x + 1, 6)
    return (
        settled(whole, positions, length_s, length_t),
        settled(quadrants, in_quadrant, lengths_s, lengths_t),
    )


@triton.jit
def _slope(
    mine,
    theirs,
    squares_mine,  # [4]
    squares_theirs,
    distance,  # scalar
    distances,  # [4]
    quadrant,
    positions,
    in_quadrant,
    weight_whole,  # scalar
    weight_quadrant,  # [4]
    LOCAL: tl.constexpr,
):
    """Gradient of one of the maps g, p, n of one side, whole map and quadrants."""
    inverse, length = unit(tl.sum(squares_mine, axis=0))
    inverse_other, length_other = unit(tl.sum(squares_theirs, axis=0))
    factor, projection = pull_factors(
        inverse, distance, length, length_other, positions, weight_whole
    )
    total = pull(mine, theirs, inverse, inverse_other, factor, projection)
    if LOCAL:
        inverses, lengths = unit(squares_mine)
        inverses_other, lengths_other = unit(squares_theirs)
        factors, projections = pull_factors(
            inverses, distances, lengths, lengths_other, in_quadrant, weight_quadrant
        )
        total += pull(
            mine,
            theirs,
            at_positions(inverses, quadrant),
            at_positions(inverses_other, quadrant),
            at_positions(factors, quadrant),
            at_positions(projections, quadrant),
        )
    return total


@triton.jit
def _pass(
    map_s,  # [GROUPS, B, N] in the compute dtype
    map_t,
    d_f_s,  # [B, N] in the compute dtype or None
    d_f_t,
    loss,  # [B] in the compute dtype
    sums,  # tuple of [B, chunks, slots, 4], one a pass
    b,
    B,
    chunk,
    height,
    width,
    BLOCK_N: tl.constexpr,
    GROUPS_S: tl.constexpr,
    GROUPS_T: tl.constexpr,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
    LAYER_WEIGHT: tl.constexpr,
    OPTIONS: tl.constexpr,
    PASS: tl.constexpr,
):
    EPS: tl.constexpr = OPTIONS[7]
    LOCAL: tl.constexpr = OPTIONS[3] > 0
    positions = height * width
    chunks = tl.cdiv(positions, BLOCK_N)
    i = chunk * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = i < positions
    quadrant = quadrant_of(i, height, width)
    f_s = load_map(map_s, b, B, positions, i, GROUPS_S)
    f_t = load_map(map_t, b, B, positions, i, GROUPS_T)
    if PASS == NORM:
        _put(sums[NORM], b, chunk, chunks, 0, 2, by_quadrant(f_s * f_s, quadrant))
        _put(sums[NORM], b, chunk, chunks, 1, 2, by_quadrant(f_t * f_t, quadrant))
    else:
        norm_s, inverse_s, norm_t, inverse_t = _norms(sums[NORM], b, chunks, EPS)
        in_quadrant = quadrant_positions(height, width)
        at = b * positions + i
        if PASS == GRADIENT:
            if GRAD_S:
                uf = tl.sum(_total(sums[SLOPE], b, chunks, 0, 2), axis=0)
                radial = tl.where(
                    norm_s == 0,
                    0.0,
                    uf * inverse_s * inverse_s / tl.where(norm_s == 0, 1.0, norm_s),
                )
                u = tl.load(d_f_s + at, mask=valid, other=0.0)
                tl.store(d_f_s + at, u * inverse_s - radial * f_s, mask=valid)
            if GRAD_T:
                uf = tl.sum(_total(sums[SLOPE], b, chunks, 1, 2), axis=0)
                radial = tl.where(
                    norm_t == 0,
                    0.0,
                    uf * inverse_t * inverse_t / tl.where(norm_t == 0, 1.0, norm_t),
                )
                u = tl.load(d_f_t + at, mask=valid, other=0.0)
                tl.store(d_f_t + at, u * inverse_t - radial * f_t, mask=valid)
            if chunk == 0:
                total = tl.zeros_like(norm_s)
                for x in tl.static_range(3):
                    whole, local = share_of(
                        x, positions, in_quadrant, LAYER_WEIGHT, OPTIONS, f_s.dtype
                    )
                    distance, distances = _distances(
                        sums[SQUARE], sums[DISTANCE], x, b, chunks, positions, in_quadrant
                    )
                    total += whole * distance
                    if LOCAL:
                        total += tl.sum(local * distances, axis=0)
                tl.store(loss + b, total)
        else:
            g_s, p_s, n_s, slope_g_s, slope_p_s, slope_n_s = angles(
                f_s, valid, norm_s, inverse_s, OPTIONS
            )
            g_t, p_t, n_t, slope_g_t, slope_p_t, slope_n_t = angles(
                f_t, valid, norm_t, inverse_t, OPTIONS
            )
            u_s, u_t = tl.zeros_like(f_s), tl.zeros_like(f_s)
            for x in tl.static_range(3):
                if x == 0:
                    x_s, x_t, slope_s, slope_t = g_s, g_t, slope_g_s, slope_g_t
                elif x == 1:
                    x_s, x_t, slope_s, slope_t = p_s, p_t, slope_p_s, slope_p_t
                else:
                    x_s, x_t, slope_s, slope_t = n_s, n_t, slope_n_s, slope_n_t
                if PASS == SQUARE:
                    _put(sums[SQUARE], b, chunk, chunks, 2 * x, 6, by_quadrant(x_s * x_s, quadrant))
                    _put(
                        sums[SQUARE],
                        b,
                        chunk,
                        chunks,
                        2 * x + 1,
                        6,
                        by_quadrant(x_t * x_t, quadrant),
                    )
                else:
                    squares_s = _total(sums[SQUARE], b, chunks, 2 * x, 6)
                    squares_t = _total(sums[SQUARE], b, chunks, 2 * x + 1, 6)
                    if PASS == DISTANCE:
                        inverse_x_s, _ = unit(tl.sum(squares_s, axis=0))
                        inverse_x_t, _ = unit(tl.sum(squares_t, axis=0))
                        d = x_s * inverse_x_s - x_t * inverse_x_t
                        _put(
                            sums[DISTANCE], b, chunk, chunks, 2 * x, 6, by_quadrant(d * d, quadrant)
                        )
                        inverses_s, _ = unit(squares_s)
                        inverses_t, _ = unit(squares_t)
                        d = x_s * at_positions(inverses_s, quadrant)
                        d -= x_t * at_positions(inverses_t, quadrant)
                        _put(
                            sums[DISTANCE],
                            b,
                            chunk,
                            chunks,
                            2 * x + 1,
                            6,
                            by_quadrant(d * d, quadrant),
                        )
                    else:
                        whole, local = share_of(
                            x, positions, in_quadrant, LAYER_WEIGHT, OPTIONS, f_s.dtype
                        )
                        distance, distances = _distances(
                            sums[SQUARE], sums[DISTANCE], x, b, chunks, positions, in_quadrant
                        )
                        if GRAD_S:
                            u_s += slope_s * _slope(
                                x_s, x_t, squares_s, squares_t, distance, distances, quadrant,
                                positions, in_quadrant, whole, local, LOCAL,
                            )  # fmt: skip
                        if GRAD_T:
                            u_t += slope_t * _slope(
                                x_t, x_s, squares_t, squares_s, distance, distances, quadrant,
                                positions, in_quadrant, whole, local, LOCAL,
                            )  # fmt: skip
            if PASS == SLOPE:
                if GRAD_S:
                    tl.store(d_f_s + at, u_s, mask=valid)
                    _put(sums[SLOPE], b, chunk, chunks, 0, 2, by_quadrant(u_s * f_s, quadrant))
                if GRAD_T:
                    tl.store(d_f_t + at, u_t, mask=valid)
                    _put(sums[SLOPE], b, chunk, chunks, 1, 2, by_quadrant(u_t * f_t, quadrant))


@triton.jit
def amd_chunk_fwd_kernel(
    maps_s,  # tuple of [GROUPS, B, N] in the compute dtype
    maps_t,
    shapes,  # tuple of (H, W)
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    sums,  # tuple of tuples of [B, chunks, slots, 4]
    first_programs,  # tuple: first program of each layer, and the end
    B,
    ROWS_OF_LOSSES: tl.constexpr,
    TILES: tl.constexpr,  # tuple of (BLOCK_N, GROUPS_S, GROUPS_T)
    LAYER_WEIGHTS: tl.constexpr,
    NEEDS_GRAD: tl.constexpr,
    OPTIONS: tl.constexpr,
    PASS: tl.constexpr,
):
    pid = tl.program_id(0)
    for layer in tl.static_range(len(maps_s)):
        if (pid >= first_programs[layer]) & (pid < first_programs[layer + 1]):
            height, width = shapes[layer]
            chunks = tl.cdiv(height * width, TILES[layer][0])
            unit_number = pid - first_programs[layer]
            _pass(
                maps_s[layer], maps_t[layer], d_f_s[layer], d_f_t[layer],
                losses + ROWS_OF_LOSSES[layer] * B, sums[layer],
                (unit_number // chunks).to(tl.int64), B, unit_number % chunks, height, width,
                TILES[layer][0], TILES[layer][1], TILES[layer][2],
                NEEDS_GRAD[layer][0], NEEDS_GRAD[layer][1], LAYER_WEIGHTS[layer], OPTIONS, PASS,
            )  # fmt: skip
