"""Forward kernels for maps that one program holds in registers: fused, and map then sample.

Layers come as tuples: a program picks its layer by number and runs the branch compiled for it, so
that one launch serves all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_map import attention_map
from amd_fused.kernels.amd_sample import quadrant_tile, sample_loss


@triton.jit
def _finish_sample(
    f_s,  # [4, M] attention maps in the order of the quadrants, 0 where not valid
    f_t,
    valid,
    counts,
    loss,  # [B] in the compute dtype
    d_f_s,  # [B, N] in the compute dtype, or None
    d_f_t,
    b,
    B,
    height,
    width,
    LAYERS: tl.constexpr,
    LAYER_WEIGHT: tl.constexpr,
    NEEDS_GRAD: tl.constexpr,  # (student, teacher)
    OPTIONS: tl.constexpr,
):
    """Computes and stores the sample's loss and its derivatives by the maps."""
    value, u_s, u_t = sample_loss(
        f_s, f_t, valid, counts, height * width, LAYER_WEIGHT, OPTIONS, NEEDS_GRAD[0], NEEDS_GRAD[1]
    )
    tl.store(loss + b, value)
    # Positions are worked out once more: held since the maps were read, they would spill. The zero,
    # which the compiler cannot see through, keeps it from merging the two.
    zero = tl.num_programs(0) - LAYERS * B
    position, valid, _ = quadrant_tile(tl.arange(0, u_s.shape[1]) + zero, height, width)
    at = b.to(tl.int64) * height * width + position
    if NEEDS_GRAD[0]:
        tl.store(d_f_s + at, u_s, mask=valid)
    if NEEDS_GRAD[1]:
        tl.store(d_f_t + at, u_t, mask=valid)


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
    TILES: tl.constexpr,  # tuple of (BLOCK_N, BLOCK_C, M, SIDE_S, SIDE_T), SIDE (LAYOUT, ALIGN)
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
            M: tl.constexpr = TILES[layer][2]
            f_s = attention_map(
                students[layer], strides_s[layer], b, 0, C_S, 0, height, width,
                BLOCK_N, BLOCK_C, TILES[layer][3], ACC,
            )  # fmt: skip
            f_t = attention_map(
                teachers[layer], strides_t[layer], b, 0, C_T, 0, height, width,
                BLOCK_N, BLOCK_C, TILES[layer][4], ACC,
            )  # fmt: skip
            # From the order of memory to that of the quadrants.
            position, valid, counts = quadrant_tile(tl.arange(0, M), height, width)
            source = tl.reshape(tl.where(valid, position, 0), (4 * M,))
            f_s = tl.where(valid, tl.reshape(tl.gather(f_s, source, 0), (4, M)), 0.0)
            f_t = tl.where(valid, tl.reshape(tl.gather(f_t, source, 0), (4, M)), 0.0)
            _finish_sample(
                f_s, f_t, valid, counts, losses + ROWS_OF_LOSSES[layer] * B, d_f_s[layer],
                d_f_t[layer], b, B, height, width, len(ROWS_OF_LOSSES), LAYER_WEIGHTS[layer],
                NEEDS_GRAD[layer], OPTIONS,
            )  # fmt: skip


@triton.jit
def amd_map_fwd_kernel(
    features,  # tuple of [B, C, H, W], any strides and dtype: both sides of every layer
    strides,  # tuple of (b, c, h, w)
    shapes,  # tuple of (C, H, W)
    maps,  # tuple of [GROUPS, B, N] in the compute dtype
    first_programs,  # tuple: first program of each feature, and the end
    B,
    TILES: tl.constexpr,  # tuple of (BLOCK_N, BLOCK_C, SIDE, GROUPS), SIDE (LAYOUT, ALIGN)
    ACC: tl.constexpr,
):
    """One program: a block of positions of one sample, over one group of its channels."""
    pid = tl.program_id(0)
    for k in tl.static_range(len(features)):
        if (pid >= first_programs[k]) & (pid < first_programs[k + 1]):
            channels, height, width = shapes[k]
            BLOCK_N: tl.constexpr = TILES[k][0]
            GROUPS: tl.constexpr = TILES[k][3]
            positions = height * width
            blocks = tl.cdiv(positions, BLOCK_N)
            unit = pid - first_programs[k]
            group = unit % GROUPS
            block = (unit // GROUPS) % blocks
            b = (unit // GROUPS // blocks).to(tl.int64)
            per_group = tl.cdiv(channels, GROUPS)
            last = tl.minimum(channels, (group + 1) * per_group)
            f = attention_map(
                features[k], strides[k], b, group * per_group, last, block * BLOCK_N,
                height, width, BLOCK_N, TILES[k][1], TILES[k][2], ACC,
            )  # fmt: skip
            i = block * BLOCK_N + tl.arange(0, BLOCK_N)
            at = (group.to(tl.int64) * B + b) * positions + i
            tl.store(maps[k] + at, f, mask=i < positions)


@triton.jit
def load_map(maps, b, B, positions, position, valid, GROUPS: tl.constexpr):
    """f of sample b at `position`: the sum over the channel groups, in their order; 0 if not
    valid."""
    f = tl.load(maps + b * positions + position, mask=valid, other=0.0)
    for group in tl.static_range(1, GROUPS):
        at = (B.to(tl.int64) * group + b) * positions + position
        f += tl.load(maps + at, mask=valid, other=0.0)
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
    TILES: tl.constexpr,  # tuple of (M, GROUPS_S, GROUPS_T)
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
            position, valid, counts = quadrant_tile(tl.arange(0, TILES[layer][0]), height, width)
            f_s = load_map(maps_s[layer], b, B, positions, position, valid, TILES[layer][1])
            f_t = load_map(maps_t[layer], b, B, positions, position, valid, TILES[layer][2])
            _finish_sample(
                f_s, f_t, valid, counts, losses + ROWS_OF_LOSSES[layer] * B, d_f_s[layer],
                d_f_t[layer], b, B, height, width, len(ROWS_OF_LOSSES), LAYER_WEIGHTS[layer],
                NEEDS_GRAD[layer], OPTIONS,
            )  # fmt: skip
