"""Eq. 4 on tiles: the attention map f_i = sum_c A_ci^2 of a stretch of one sample's positions."""

from __future__ import annotations

import triton
import triton.language as tl

# How a feature's strides run; `_plan.layout_of` says which.
ROWS = tl.constexpr(0)  # positions contiguous within a channel: NCHW
PIXELS = tl.constexpr(1)  # channels contiguous within a position: channels_last
STRIDED = tl.constexpr(2)  # anything else


@triton.jit
def position_offset(i, width, strides, LAYOUT: tl.constexpr):
    """Element offset of position i within one channel of one sample; strides (b, c, h, w)."""
    if LAYOUT == ROWS:
        return i
    elif LAYOUT == PIXELS:
        # A one-column map has its pixels along the height.
        return i * tl.where(width > 1, strides[3], strides[2])
    else:
        return (i // width) * strides[2] + (i % width) * strides[3]


@triton.jit
def attention_map(
    a,  # pointer to the first element of the sample
    strides,  # (b, c, h, w)
    first,  # channels [first, last) are summed
    last,
    i,  # [N] positions
    valid,  # [N] of bool: positions within the map
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """f [N] in the compute dtype, 0 where not valid. Tiles lie as memory does: 16-byte loads."""
    at = position_offset(i.to(tl.int64), width, strides, LAYOUT)
    if LAYOUT == PIXELS:
        total = tl.zeros((BLOCK_N, BLOCK_C), ACC)
        for begin in range(first, last, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            mask = valid[:, None] & (c < last)[None, :]
            tile = tl.load(a + at[:, None] + c[None, :], mask=mask, other=0.0).to(ACC)
            total += tile * tile
        return tl.sum(total, axis=1)
    else:
        total = tl.zeros((BLOCK_C, BLOCK_N), ACC)
        for begin in range(first, last, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            mask = (c < last)[:, None] & valid[None, :]
            offset = c.to(tl.int64)[:, None] * strides[1] + at[None, :]
            tile = tl.load(a + offset, mask=mask, other=0.0).to(ACC)
            total += tile * tile
        return tl.sum(total, axis=0)
