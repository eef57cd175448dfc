"""Backward kernel: dL/dA_ci = 2 A_ci dL/df_i, one read of A and one write of its gradient.

The upstream gradient is applied in the compute dtype, before the cast to the features' dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import aligned
from amd_fused.losses.amd.triton.attention_map import (
    PIXELS,
    ROWS,
    channel_offset,
    position_offset,
    sample_offset,
)

# Tiles: [channels, positions] or [positions, channels] as memory lies; or a flat stretch of a
# sample whose channels follow each other without a gap, for maps whose rows are not whole 16-byte
# words.
FLAT = tl.constexpr(3)


@triton.jit(do_not_specialize=["stride_grad_loss", "B"])
def amd_bwd_kernel(
    grad_loss,  # [B] in the compute dtype, any stride
    stride_grad_loss,
    features,  # tuple of [B, C, H, W], any strides and dtype
    gradients,  # tuple of [B, C, H, W], their own strides, dtype of the features
    strides,  # tuple of (b, c, h, w)
    strides_out,
    shapes,  # tuple of (C, H, W)
    d_f,  # tuple of [B, N] in the compute dtype
    first_programs,  # tuple: first program of each feature and the end, were there one sample
    B,
    BLOCKS_N: tl.constexpr,  # these, too, have one entry a feature
    BLOCKS_C: tl.constexpr,
    FORMS: tl.constexpr,
    ALIGNS: tl.constexpr,
):
    pid = tl.program_id(0)
    for k in tl.static_range(len(features)):
        if (pid >= first_programs[k] * B) & (pid < first_programs[k + 1] * B):
            channels, height, width = shapes[k]
            BLOCK_N: tl.constexpr = BLOCKS_N[k]
            BLOCK_C: tl.constexpr = BLOCKS_C[k]
            FORM: tl.constexpr = FORMS[k]
            ALIGN: tl.constexpr = ALIGNS[k]
            positions = height * width
            if FORM == ROWS:
                positions = aligned(positions, ALIGN)
            elif FORM == PIXELS:
                channels = aligned(channels, ALIGN)
            unit = pid - first_programs[k] * B
            if FORM == FLAT:
                size = aligned(channels * positions, ALIGN)
                blocks = tl.cdiv(size, BLOCK_N)
                b = (unit // blocks).to(tl.int64)
                at = (unit % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
                mask = at < size
                slope = tl.load(d_f[k] + b * positions + at % positions, mask=mask, other=0.0)
                o_in, o_out = at, at
            else:
                n_blocks = tl.cdiv(positions, BLOCK_N)
                c_blocks = tl.cdiv(channels, BLOCK_C)
                # Neighbouring programs lie next to each other in memory.
                if FORM == PIXELS:
                    n_block, c_block = (unit // c_blocks) % n_blocks, unit % c_blocks
                else:
                    n_block, c_block = unit % n_blocks, (unit // n_blocks) % c_blocks
                b = (unit // (n_blocks * c_blocks)).to(tl.int64)
                i = n_block * BLOCK_N + tl.arange(0, BLOCK_N)
                c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
                slope = tl.load(d_f[k] + b * positions + i, mask=i < positions, other=0.0)
                i_in = position_offset(i, width, strides[k], FORM, ALIGN)
                i_out = position_offset(i, width, strides_out[k], FORM, ALIGN)
                c_in = channel_offset(c, strides[k], FORM, ALIGN)
                c_out = channel_offset(c, strides_out[k], FORM, ALIGN)
                if FORM == PIXELS:
                    mask = (i < positions)[:, None] & (c < channels)[None, :]
                    o_in, o_out = i_in[:, None] + c_in[None, :], i_out[:, None] + c_out[None, :]
                    slope = slope[:, None]
                else:
                    mask = (c < channels)[:, None] & (i < positions)[None, :]
                    o_in, o_out = c_in[:, None] + i_in[None, :], c_out[:, None] + i_out[None, :]
                    slope = slope[None, :]
            slope = slope * (2 * tl.load(grad_loss + b * stride_grad_loss))
            a = features[k] + sample_offset(b, strides[k], ALIGN)
            out = gradients[k] + sample_offset(b, strides_out[k], ALIGN)
            value = tl.load(a + o_in, mask=mask, other=0.0).to(slope.dtype)
            tl.store(out + o_out, value * slope, mask=mask)
