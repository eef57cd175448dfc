"""The per-sample part for maps of any size: one program a chunk of each quadrant, one kernel a
pass.

Between passes every chunk leaves sums by quadrant, and every program of the next pass adds those of
its sample in the order of the chunks: no atomics, the same bits each time. The maps are a 1/C-th of
the features, so the passes recompute g, p and n from f rather than store them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses.amd.triton.formulas import (
    EPS,
    LOCAL,
    TERMS,
    inverse_norm,
    number,
    term_map,
)
from amd_fused.losses.amd.triton.forward import load_map
from amd_fused.losses.amd.triton.sample import (
    column_sums,
    distances_of,
    map_gradient,
    map_slope,
    quadrant_tile,
    row_sum,
    share_of,
    square_difference,
)

# Passes, in order. What each leaves: [B, chunks, slots, 4] sums by quadrant.
NORM = tl.constexpr(0)  # f^2 of either side: 2 slots
SQUARE = tl.constexpr(1)  # x^2 of g, p, n of either side: 6
DISTANCE = tl.constexpr(2)  # D_x with the whole map's norms, with the quadrant's: 6
SLOPE = tl.constexpr(3)  # u f of either side: 2, and u itself in d_f
GRADIENT = tl.constexpr(4)  # dL/df in d_f, and the loss


@triton.jit
def _put(sums, b, chunk, chunks, slot: tl.constexpr, SLOTS: tl.constexpr, value):
    at = ((b * chunks + chunk) * SLOTS + slot) * 4 + tl.arange(0, 4)[None, :]
    tl.store(sums + at, value)


@triton.jit
def _total(sums, b, chunks, slot: tl.constexpr, SLOTS: tl.constexpr):
    """[1, 4]: a slot's sums over all chunks of sample b."""
    TILE: tl.constexpr = 64
    total = tl.zeros((1, 4), sums.dtype.element_ty)
    for first in range(0, chunks, TILE):
        chunk = first + tl.arange(0, TILE)
        at = ((b * chunks + chunk) * SLOTS + slot)[:, None] * 4 + tl.arange(0, 4)[None, :]
        total += column_sums(tl.load(sums + at, mask=(chunk < chunks)[:, None], other=0.0))
    return total


@triton.jit
def _norms(norm_sums, b, chunks, eps):
    norm_s, inverse_s = inverse_norm(row_sum(_total(norm_sums, b, chunks, 0, 2)), eps)
    norm_t, inverse_t = inverse_norm(row_sum(_total(norm_sums, b, chunks, 1, 2)), eps)
    return norm_s, inverse_s, norm_t, inverse_t


@triton.jit
def _distances(square_sums, distance_sums, x: tl.constexpr, b, chunks, positions, counts):
    """D_x of the whole map ([1, 1]) and of the quadrants ([1, 4])."""
    squares_s = _total(square_sums, b, chunks, 2 * x, 6)
    squares_t = _total(square_sums, b, chunks, 2 * x + 1, 6)
    whole = _total(distance_sums, b, chunks, 2 * x, 6)
    quadrants = _total(distance_sums, b, chunks, 2 * x + 1, 6)
    # A chunked map has no region of one position.
    return distances_of(squares_s, squares_t, whole, quadrants, positions, counts, BLOCK=256)


@triton.jit
def _finish_gradient(d_f, at, valid, f, slope_sums, side: tl.constexpr, b, chunks, norm, inverse):
    """u in d_f becomes dL/df, by the sum over all chunks of u f."""
    sum_uf = row_sum(_total(slope_sums, b, chunks, side, 2))
    u = tl.load(d_f + at, mask=valid, other=0.0)
    tl.store(d_f + at, map_gradient(f, u, sum_uf, norm, inverse), mask=valid)


@triton.jit
def _loss(sums, b, chunks, positions, counts, layer_weight, numbers, OPTIONS: tl.constexpr):
    ACC: tl.constexpr = sums[NORM].dtype.element_ty
    total = row_sum(tl.zeros((1, 4), ACC))
    for x in tl.static_range(TERMS):
        weight, weights = share_of(x, positions, counts, layer_weight, numbers, OPTIONS, ACC)
        distance, distances = _distances(
            sums[SQUARE], sums[DISTANCE], x, b, chunks, positions, counts
        )
        total += weight * distance
        if OPTIONS[LOCAL]:
            total += row_sum(weights * distances)
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
    chunks,
    height,
    width,
    layer_weight,
    numbers,
    BLOCK: tl.constexpr,
    GROUPS_S: tl.constexpr,
    GROUPS_T: tl.constexpr,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
    OPTIONS: tl.constexpr,
    PASS: tl.constexpr,
):
    positions = height * width
    j = chunk * BLOCK + tl.arange(0, BLOCK)
    position, valid, counts = quadrant_tile(j, height, width)
    at = b * positions + position
    f_s = load_map(map_s, b, B, positions, position, valid, GROUPS_S)
    f_t = load_map(map_t, b, B, positions, position, valid, GROUPS_T)
    eps = number(numbers, EPS, f_s.dtype)
    if PASS == NORM:
        _put(sums[NORM], b, chunk, chunks, 0, 2, column_sums(f_s * f_s))
        _put(sums[NORM], b, chunk, chunks, 1, 2, column_sums(f_t * f_t))
    else:
        norm_s, inverse_s, norm_t, inverse_t = _norms(sums[NORM], b, chunks, eps)
        if PASS == GRADIENT:
            if GRAD_S:
                _finish_gradient(
                    d_f_s, at, valid, f_s, sums[SLOPE], 0, b, chunks, norm_s, inverse_s
                )
            if GRAD_T:
                _finish_gradient(
                    d_f_t, at, valid, f_t, sums[SLOPE], 1, b, chunks, norm_t, inverse_t
                )
            if chunk == 0:
                value = _loss(sums, b, chunks, positions, counts, layer_weight, numbers, OPTIONS)
                tl.store(loss + tl.zeros((1, 1), tl.int64) + b, value)
        else:
            u_s, u_t = tl.zeros_like(f_s), tl.zeros_like(f_s)
            for x in tl.static_range(TERMS):
                x_s, slope_s = term_map(x, f_s, valid, norm_s, inverse_s, numbers, OPTIONS)
                x_t, slope_t = term_map(x, f_t, valid, norm_t, inverse_t, numbers, OPTIONS)
                if PASS == SQUARE:
                    _put(sums[SQUARE], b, chunk, chunks, 2 * x, 6, column_sums(x_s * x_s))
                    _put(sums[SQUARE], b, chunk, chunks, 2 * x + 1, 6, column_sums(x_t * x_t))
                else:
                    squares_s = _total(sums[SQUARE], b, chunks, 2 * x, 6)
                    squares_t = _total(sums[SQUARE], b, chunks, 2 * x + 1, 6)
                    if PASS == DISTANCE:
                        whole = square_difference(x_s, x_t, row_sum(squares_s), row_sum(squares_t))
                        local = square_difference(x_s, x_t, squares_s, squares_t)
                        whole, local = column_sums(whole), column_sums(local)
                        _put(sums[DISTANCE], b, chunk, chunks, 2 * x, 6, whole)
                        _put(sums[DISTANCE], b, chunk, chunks, 2 * x + 1, 6, local)
                    else:
                        weight, weights = share_of(
                            x, positions, counts, layer_weight, numbers, OPTIONS, f_s.dtype
                        )
                        distance, distances = _distances(
                            sums[SQUARE], sums[DISTANCE], x, b, chunks, positions, counts
                        )
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
            if PASS == SLOPE:
                if GRAD_S:
                    tl.store(d_f_s + at, u_s, mask=valid)
                    _put(sums[SLOPE], b, chunk, chunks, 0, 2, column_sums(u_s * f_s))
                if GRAD_T:
                    tl.store(d_f_t + at, u_t, mask=valid)
                    _put(sums[SLOPE], b, chunk, chunks, 1, 2, column_sums(u_t * f_t))


@triton.jit(do_not_specialize=["B"])
def amd_chunk_fwd_kernel(
    maps_s,  # tuple of [GROUPS, B, N] in the compute dtype
    maps_t,
    shapes,  # tuple of (H, W)
    chunks,  # tuple: chunks of each layer
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    layer_weights,  # one a layer, and the options' numbers (places in formulas), as
    numbers,  # launches.passed makes them
    sums,  # tuple of tuples of [B, chunks, slots, 4]
    first_programs,  # tuple: first program of each layer and the end, were there one sample
    B,
    ROWS_OF_LOSSES: tl.constexpr,
    BLOCKS: tl.constexpr,  # these, too, have one entry a layer
    CHANNEL_GROUPS_S: tl.constexpr,
    CHANNEL_GROUPS_T: tl.constexpr,
    GRADS_S: tl.constexpr,
    GRADS_T: tl.constexpr,
    OPTIONS: tl.constexpr,
    PASS: tl.constexpr,
):
    pid = tl.program_id(0)
    for layer in tl.static_range(len(maps_s)):
        if (pid >= first_programs[layer] * B) & (pid < first_programs[layer + 1] * B):
            unit = pid - first_programs[layer] * B
            BLOCK: tl.constexpr = BLOCKS[layer]
            GROUPS_S: tl.constexpr = CHANNEL_GROUPS_S[layer]
            GROUPS_T: tl.constexpr = CHANNEL_GROUPS_T[layer]
            GRAD_S: tl.constexpr = GRADS_S[layer]
            GRAD_T: tl.constexpr = GRADS_T[layer]
            _pass(
                maps_s[layer], maps_t[layer], d_f_s[layer], d_f_t[layer],
                losses + ROWS_OF_LOSSES[layer] * B, sums[layer],
                (unit // chunks[layer]).to(tl.int64), B, unit % chunks[layer], chunks[layer],
                shapes[layer][0], shapes[layer][1],
                number(layer_weights, layer, losses.dtype.element_ty), numbers,
                BLOCK, GROUPS_S, GROUPS_T, GRAD_S, GRAD_T, OPTIONS, PASS,
            )  # fmt: skip
