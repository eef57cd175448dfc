"""Forward kernels for maps that one program holds in registers: fused, and map then sample.

Layers come as tuples: a program picks its layer by number and runs the branch compiled for it, so
that one launch serves all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses.amd.triton.attention_map import attention_map, root
from amd_fused.losses.amd.triton.formulas import number
from amd_fused.losses.amd.triton.sample import quadrant_tile, sample_loss


@triton.jit
def _finish_sample(
    f_s,  # [M, 4] attention maps in the order of the quadrants, 0 where not valid
    f_t,
    valid,
    counts,
    loss,  # [B] in the compute dtype
    d_f_s,  # [B, N] in the compute dtype, or None
    d_f_t,
    B,
    height,
    width,
    layer_weight,
    numbers,
    LAYERS: tl.constexpr,
    GRAD_S: tl.constexpr,
    GRAD_T: tl.constexpr,
    OPTIONS: tl.constexpr,
):
    """Computes and stores the sample's loss and its derivatives by the maps."""
    value, u_s, u_t = sample_loss(
        f_s, f_t, valid, counts, height * width, layer_weight, numbers, OPTIONS, GRAD_S, GRAD_T
    )
    # Positions are worked out once more: held since the maps were read, they would spill.
    # The zero, which the compiler cannot see through, keeps it from merging the two.
    zero = tl.num_programs(0) - LAYERS * B
    b = (tl.program_id(0) % B).to(tl.int64)
    tl.store(loss + tl.zeros((1, 1), tl.int64) + b, value)
    position, valid, _ = quadrant_tile(tl.arange(0, u_s.shape[0]) + zero, height, width)
    at = b * height * width + position
    if GRAD_S:
        tl.store(d_f_s + at, u_s, mask=valid)
    if GRAD_T:
        tl.store(d_f_t + at, u_t, mask=valid)


@triton.jit(do_not_specialize=["B"])
def amd_fused_fwd_kernel(
    students,  # tuple of [B, C_S, H, W], any strides and dtype
    teachers,  # tuple of [B, C_T, H, W]
    strides_s,  # tuple of (b, c, h, w)
    strides_t,
    shapes,  # tuple of (C_S, C_T, H, W)
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    layer_weights,  # one a layer, and the options' numbers (places in formulas), as
    numbers,  # launches.passed makes them
    B,
    ROWS_OF_LOSSES: tl.constexpr,  # tuple: number of the layer in `losses`
    BLOCKS_N: tl.constexpr,  # these, too, have one entry a layer
    BLOCKS_C: tl.constexpr,
    QUADRANT_BLOCKS: tl.constexpr,
    LAYOUTS_S: tl.constexpr,
    ALIGNS_S: tl.constexpr,
    LAYOUTS_T: tl.constexpr,
    ALIGNS_T: tl.constexpr,
    GRADS_S: tl.constexpr,
    GRADS_T: tl.constexpr,
    OPTIONS: tl.constexpr,
    ACC: tl.constexpr,
):
    pid = tl.program_id(0)
    b = pid % B
    for layer in tl.static_range(len(students)):
        if pid // B == layer:
            C_S, C_T, height, width = shapes[layer]
            BLOCK_N: tl.constexpr = BLOCKS_N[layer]
            BLOCK_C: tl.constexpr = BLOCKS_C[layer]
            M: tl.constexpr = QUADRANT_BLOCKS[layer]
            LAYOUT_S: tl.constexpr = LAYOUTS_S[layer]
            ALIGN_S: tl.constexpr = ALIGNS_S[layer]
            LAYOUT_T: tl.constexpr = LAYOUTS_T[layer]
            ALIGN_T: tl.constexpr = ALIGNS_T[layer]
            GRAD_S: tl.constexpr = GRADS_S[layer]
            GRAD_T: tl.constexpr = GRADS_T[layer]
            f_s = attention_map(
                students[layer], strides_s[layer], b, C_S, 0, C_S, 0, height, width,
                BLOCK_N, BLOCK_C, LAYOUT_S, ALIGN_S, ACC,
            )  # fmt: skip
            f_t = attention_map(
                teachers[layer], strides_t[layer], b, C_T, 0, C_T, 0, height, width,
                BLOCK_N, BLOCK_C, LAYOUT_T, ALIGN_T, ACC,
            )  # fmt: skip
            # From the order of memory to that of the quadrants.
            position, valid, counts = quadrant_tile(tl.arange(0, M), height, width)
            source = tl.reshape(tl.where(valid, position, 0), (M * 4,))
            f_s = tl.where(valid, tl.reshape(tl.gather(f_s, source, 0), (M, 4)), 0.0)
            f_t = tl.where(valid, tl.reshape(tl.gather(f_t, source, 0), (M, 4)), 0.0)
            _finish_sample(
                f_s, f_t, valid, counts, losses + ROWS_OF_LOSSES[layer] * B, d_f_s[layer],
                d_f_t[layer], B, height, width, number(layer_weights, layer, f_s.dtype), numbers,
                len(ROWS_OF_LOSSES), GRAD_S, GRAD_T, OPTIONS,
            )  # fmt: skip


@triton.jit(do_not_specialize=["B"])
def amd_map_fwd_kernel(
    features,  # tuple of [B, C, H, W], any strides and dtype: both sides of every layer
    strides,  # tuple of (b, c, h, w)
    shapes,  # tuple of (C, H, W)
    maps,  # tuple of [GROUPS, B, N] in the compute dtype
    first_programs,  # tuple: first program of each feature and the end, were there one sample
    B,
    BLOCKS_N: tl.constexpr,  # these, too, have one entry a feature
    BLOCKS_C: tl.constexpr,
    LAYOUTS: tl.constexpr,
    ALIGNS: tl.constexpr,
    CHANNEL_GROUPS: tl.constexpr,
    ROOT: tl.constexpr,  # store the square root of f
    ACC: tl.constexpr,
):
    """One program: a block of positions of one sample, over one group of its channels."""
    pid = tl.program_id(0)
    for k in tl.static_range(len(features)):
        if (pid >= first_programs[k] * B) & (pid < first_programs[k + 1] * B):
            channels, height, width = shapes[k]
            BLOCK_N: tl.constexpr = BLOCKS_N[k]
            BLOCK_C: tl.constexpr = BLOCKS_C[k]
            LAYOUT: tl.constexpr = LAYOUTS[k]
            ALIGN: tl.constexpr = ALIGNS[k]
            GROUPS: tl.constexpr = CHANNEL_GROUPS[k]
            positions = height * width
            blocks = tl.cdiv(positions, BLOCK_N)
            unit = pid - first_programs[k] * B
            group = unit % GROUPS
            block = (unit // GROUPS) % blocks
            b = (unit // GROUPS // blocks).to(tl.int64)
            # Whole blocks of channels, so that every group begins at a 16-byte word.
            per_group = tl.cdiv(tl.cdiv(channels, GROUPS), BLOCK_C) * BLOCK_C
            last = tl.minimum(channels, (group + 1) * per_group)
            f = attention_map(
                features[k], strides[k], b, channels, group * per_group, last, block * BLOCK_N,
                height, width, BLOCK_N, BLOCK_C, LAYOUT, ALIGN, ACC,
            )  # fmt: skip
            i = block * BLOCK_N + tl.arange(0, BLOCK_N)
            at = (group.to(tl.int64) * B + b) * positions + i
            if ROOT:
                f = root(f)
            tl.store(maps[k] + at, f, mask=i < positions)


@triton.jit
def load_map(maps, b, B, positions, position, valid, GROUPS: tl.constexpr):
    """f of sample b at `position`: the sum over the channel groups, in their order; 0 if not
    valid."""
    f = tl.load(maps + b * positions + position, mask=valid, other=0.0)
    for group in tl.range(1, GROUPS, loop_unroll_factor=4):
        at = (B.to(tl.int64) * group + b) * positions + position
        f += tl.load(maps + at, mask=valid, other=0.0)
    return f


@triton.jit(do_not_specialize=["B"])
def amd_sample_fwd_kernel(
    maps_s,  # tuple of [GROUPS, B, N] in the compute dtype
    maps_t,
    shapes,  # tuple of (H, W)
    d_f_s,  # tuple of [B, N] in the compute dtype or None
    d_f_t,
    losses,  # [L, B] in the compute dtype
    layer_weights,  # one a layer, and the options' numbers (places in formulas), as
    numbers,  # launches.passed makes them
    B,
    ROWS_OF_LOSSES: tl.constexpr,
    QUADRANT_BLOCKS: tl.constexpr,  # these, too, have one entry a layer
    CHANNEL_GROUPS_S: tl.constexpr,
    CHANNEL_GROUPS_T: tl.constexpr,
    GRADS_S: tl.constexpr,
    GRADS_T: tl.constexpr,
    OPTIONS: tl.constexpr,
):
    pid = tl.program_id(0)
    b = (pid % B).to(tl.int64)
    for layer in tl.static_range(len(maps_s)):
        if pid // B == layer:
            height, width = shapes[layer]
            positions = height * width
            M: tl.constexpr = QUADRANT_BLOCKS[layer]
            GROUPS_S: tl.constexpr = CHANNEL_GROUPS_S[layer]
            GROUPS_T: tl.constexpr = CHANNEL_GROUPS_T[layer]
            GRAD_S: tl.constexpr = GRADS_S[layer]
            GRAD_T: tl.constexpr = GRADS_T[layer]
            position, valid, counts = quadrant_tile(tl.arange(0, M), height, width)
            f_s = load_map(maps_s[layer], b, B, positions, position, valid, GROUPS_S)
            f_t = load_map(maps_t[layer], b, B, positions, position, valid, GROUPS_T)
            _finish_sample(
                f_s, f_t, valid, counts, losses + ROWS_OF_LOSSES[layer] * B, d_f_s[layer],
                d_f_t[layer], B, height, width, number(layer_weights, layer, f_s.dtype), numbers,
                len(ROWS_OF_LOSSES), GRAD_S, GRAD_T, OPTIONS,
            )  # fmt: skip
