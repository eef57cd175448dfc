"""Backward kernel: dL/dA_ci = 2 A_ci dL/df_i, one read of A and one write of its gradient.

The upstream gradient is applied in the compute dtype, before the cast to the features' dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.kernels.amd_map import PIXELS, ROWS, position_offset

# Tiles: [channels, positions] or [positions, channels] as memory lies; or a flat stretch of a sample whose
# channels follow each other without a gap, for maps whose rows are not whole 16-byte words.
FLAT = tl.constexpr(3)


@triton.jit
def amd_bwd_kernel(
    grad_loss,  # [B] in the compute dtype, any stride
    stride_grad_loss,
    features,  # tuple of [B, C, H, W], any strides and dtype
    gradients,  # tuple of [B, C, H, W], their own strides, dtype of the features
    strides,  # tuple of (b, c, h, w)
    strides_out,
    shapes,  # tuple of (C, H, W)
    d_f,  # tuple of [B, N] in the compute dtype
    first_programs,  # tuple: first program of each feature, and the end
    TILES: tl.constexpr,  # tuple of (BLOCK_N, BLOCK_C, ALIGN, FORM)
):
    pid = tl.program_id(0)
    for k in tl.static_range(len(features)):
        if (pid >= first_programs[k]) & (pid < first_programs[k + 1]):
            channels, height, width = shapes[k]
            BLOCK_N: tl.constexpr = TILES[k][0]
            BLOCK_C: tl.constexpr = TILES[k][1]
            FORM: tl.constexpr = TILES[k][3]
            positions = tl.multiple_of(height * width, TILES[k][2])
            unit = pid - first_programs[k]
            if FORM == FLAT:
                size = channels * positions
                blocks = tl.cdiv(size, BLOCK_N)
                b = (unit // blocks).to(tl.int64)
                at = (unit % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
                upstream = tl.load(grad_loss + b * stride_grad_loss)
                mask = at < size
                slope = tl.load(d_f[k] + b * positions + at % positions, mask=mask, other=0.0)
                a = tl.load(features[k] + b * strides[k][0] + at, mask=mask, other=0.0)
                out = a.to(slope.dtype) * (slope * (2 * upstream))
                tl.store(gradients[k] + b * strides_out[k][0] + at, out, mask=mask)
            else:
                n_blocks = tl.cdiv(positions, BLOCK_N)
                c_blocks = tl.cdiv(channels, BLOCK_C)
                # Neighbouring programs lie next to each other in memory.
                if FORM == PIXELS:
                    inner, outer = unit % c_blocks, (unit // c_blocks) % n_blocks
                    i = outer * BLOCK_N + tl.arange(0, BLOCK_N)
                    c = inner * BLOCK_C + tl.arange(0, BLOCK_C)
                else:
                    inner, outer = unit % n_blocks, (unit // n_blocks) % c_blocks
                    i = inner * BLOCK_N + tl.arange(0, BLOCK_N)
                    c = outer * BLOCK_C + tl.arange(0, BLOCK_C)
                b = (unit // (n_blocks * c_blocks)).to(tl.int64)
                upstream = tl.load(grad_loss + b * stride_grad_loss)
                slope = tl.load(d_f[k] + b * positions + i, mask=i < positions, other=0.0)
                slope = slope * (2 * upstream)
                i_in = position_offset(i.to(tl.int64), width, strides[k], FORM)
                i_out = position_offset(i.to(tl.int64), width, strides_out[k], FORM)
                if FORM == PIXELS:
                    mask = (i < positions)[:, None] & (c < channels)[None, :]
                    o_in = i_in[:, None] + c[None, :]
                    o_out = i_out[:, None] + c[None, :]
                    slope = slope[:, None]
                else:
                    mask = (c < channels)[:, None] & (i < positions)[None, :]
                    c_wide = c.to(tl.int64)[:, None]
                    o_in = c_wide * strides[k][1] + i_in[None, :]
                    o_out = c_wide * strides_out[k][1] + i_out[None, :]
                    slope = slope[None, :]
                a = tl.load(features[k] + b * strides[k][0] + o_in, mask=mask, other=0.0)
                out = a.to(slope.dtype) * slope
                tl.store(gradients[k] + b * strides_out[k][0] + o_out, out, mask=mask)
