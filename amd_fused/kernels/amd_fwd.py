"""Forward kernels for maps that one program holds in registers: fused, and map then sample.

Layers come as tuples: a program picks its layer by number and runs the branch compiled for it, so that
one launch serves all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_map import attention_map
from amd_fused.kernels.amd_sample import sample_loss


@triton.jit
def _aligned_positions(height, width, ALIGN: tl.constexpr):
    """H * W, with what the launcher knows of its divisors: lets rows be loaded 16 bytes at a time."""
    return tl.multiple_of(height * width, ALIGN)


@triton.jit
def _store_sample(
    loss,
    u_s,
    u_t,
    losses,  # [L, B] in the compute dtype
    d_f_s,  # [B, N] in the compute dtype, or None
    d_f_t,
    layer,
    b,
    B,
    i,
    positions,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
):
    tl.store(losses + layer * B + b, loss)
    at = b.to(tl.int64) * positions + i
    if GRAD_S:
        tl.store(d_f_s + at, u_s, mask=i < positions)
    if GRAD_T:
        tl.store(d_f_t + at, u_t, mask=i < positions)


@triton.jit
def amd_fused_fwd_kernel(
    students,  # tuple of [B, C_S, H, W], any strides and dtype
    teachers,  # tuple of [B, C_T, H, W]
    strides_s,  # tuple of (b, c, h, w)
    strides_t,
    shapes,  # tuple of (C_S, C_T, H, W)
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    B,
    ROWS_OF_LOSSES: tl.constexpr,  # tuple: number of the layer in `losses`
    TILES: tl.constexpr,  # tuple of (BLOCK_N, BLOCK_C, ALIGN, LAYOUT_S, LAYOUT_T)
    LAYER_WEIGHTS: tl.constexpr,
    NEEDS_GRAD: tl.constexpr,  # tuple of (student, teacher)
    OPTIONS: tl.constexpr,
    ACC: tl.constexpr,
):
    pid = tl.program_id(0)
    b = pid % B
    for layer in tl.static_range(len(students)):
        if pid // B == layer:
            C_S, C_T, height, width = shapes[layer]
            BLOCK_N: tl.constexpr = TILES[layer][0]
            BLOCK_C: tl.constexpr = TILES[layer][1]
            positions = _aligned_positions(height, width, TILES[layer][2])
            i = tl.arange(0, BLOCK_N)
            a_s = students[layer] + b.to(tl.int64) * strides_s[layer][0]
            a_t = teachers[layer] + b.to(tl.int64) * strides_t[layer][0]
            f_s = attention_map(
                a_s, strides_s[layer], 0, C_S, i, i < positions, width,
                BLOCK_N, BLOCK_C, TILES[layer][3], ACC,
            )  # fmt: skip
            f_t = attention_map(
                a_t, strides_t[layer], 0, C_T, i, i < positions, width,
                BLOCK_N, BLOCK_C, TILES[layer][4], ACC,
            )  # fmt: skip
            GRAD_S: tl.constexpr = NEEDS_GRAD[layer][0]
            GRAD_T: tl.constexpr = NEEDS_GRAD[layer][1]
            loss, u_s, u_t = sample_loss(
                f_s, f_t, i, height, width, LAYER_WEIGHTS[layer], OPTIONS, GRAD_S, GRAD_T
            )
            _store_sample(
                loss, u_s, u_t, losses, d_f_s[layer], d_f_t[layer],
                ROWS_OF_LOSSES[layer], b, B, i, positions, GRAD_S, GRAD_T,
            )  # fmt: skip


@triton.jit
def amd_map_fwd_kernel(
    features,  # tuple of [B, C, H, W], any strides and dtype: both sides of every layer
    strides,  # tuple of (b, c, h, w)
    shapes,  # tuple of (C, H, W)
    maps,  # tuple of [GROUPS, B, N] in the compute dtype
    first_programs,  # tuple: first program of each feature, and the end
    B,
    TILES: tl.constexpr,  # tuple of (BLOCK_N, BLOCK_C, ALIGN, LAYOUT, GROUPS)
    ACC: tl.constexpr,
):
    """One program: a block of positions of one sample, over one group of its channels."""
    pid = tl.program_id(0)
    for k in tl.static_range(len(features)):
        if (pid >= first_programs[k]) & (pid < first_programs[k + 1]):
            channels, height, width = shapes[k]
            BLOCK_N: tl.constexpr = TILES[k][0]
            GROUPS: tl.constexpr = TILES[k][4]
            positions = _aligned_positions(height, width, TILES[k][2])
            blocks = tl.cdiv(positions, BLOCK_N)
            unit = pid - first_programs[k]
            group = unit % GROUPS
            block = (unit // GROUPS) % blocks
            b = (unit // GROUPS // blocks).to(tl.int64)
            per_group = tl.cdiv(channels, GROUPS)
            last = tl.minimum(channels, (group + 1) * per_group)
            i = block * BLOCK_N + tl.arange(0, BLOCK_N)
            f = attention_map(
                features[k] + b * strides[k][0], strides[k], group * per_group, last,
                i, i < positions, width, BLOCK_N, TILES[k][1], TILES[k][3], ACC,
            )  # fmt: skip
            at = (group.to(tl.int64) * B + b) * positions + i
            tl.store(maps[k] + at, f, mask=i < positions)


@triton.jit
def load_map(maps, b, B, positions, i, GROUPS: tl.constexpr):
    """f [N] of sample b: the sum over the channel groups, in their order; 0 beyond the map."""
    f = tl.load(maps + b * positions + i, mask=i < positions, other=0.0)
    for group in tl.static_range(1, GROUPS):
        at = (B.to(tl.int64) * group + b) * positions + i
        f += tl.load(maps + at, mask=i < positions, other=0.0)
    return f


@triton.jit
def amd_sample_fwd_kernel(
    maps_s,  # tuple of [GROUPS, B, N] in the compute dtype
    maps_t,
    shapes,  # tuple of (H, W)
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    B,
    ROWS_OF_LOSSES: tl.constexpr,
    TILES: tl.constexpr,  # tuple of (BLOCK_N, GROUPS_S, GROUPS_T)
    LAYER_WEIGHTS: tl.constexpr,
    NEEDS_GRAD: tl.constexpr,
    OPTIONS: tl.constexpr,
):
    pid = tl.program_id(0)
    b = (pid % B).to(tl.int64)
    for layer in tl.static_range(len(maps_s)):
        if pid // B == layer:
            height, width = shapes[layer]
            positions = height * width
            i = tl.arange(0, TILES[layer][0])
            f_s = load_map(maps_s[layer], b, B, positions, i, TILES[layer][1])
            f_t = load_map(maps_t[layer], b, B, positions, i, TILES[layer][2])
            GRAD_S: tl.constexpr = NEEDS_GRAD[layer][0]
            GRAD_T: tl.constexpr = NEEDS_GRAD[layer][1]
            loss, u_s, u_t = sample_loss(
                f_s, f_t, i, height, width, LAYER_WEIGHTS[layer], OPTIONS, GRAD_S, GRAD_T
            )
            _store_sample(
                loss, u_s, u_t, losses, d_f_s[layer], d_f_t[layer],
                ROWS_OF_LOSSES[layer], b, B, i, positions, GRAD_S, GRAD_T,
            )  # fmt: skip
