"""Eq. 4 on tiles: the attention map f_i = sum_c A_ci^2 of a stretch of one sample's positions."""

from __future__ import annotations

import triton
import triton.language as tl

from amd_fused.losses._common.triton.arguments import aligned

# How a feature's strides run; `plan.Feature.layout` says which.
ROWS = tl.constexpr(0)  # positions contiguous within a channel: NCHW
PIXELS = tl.constexpr(1)  # channels contiguous within a position: channels_last
STRIDED = tl.constexpr(2)  # anything else


@triton.jit
def sample_offset(b, strides, ALIGN: tl.constexpr):
    """Element offset of sample b; strides (b, c, h, w)."""
    return b.to(tl.int64) * aligned(strides[0], ALIGN)


@triton.jit
def channel_offset(c, strides, LAYOUT: tl.constexpr, ALIGN: tl.constexpr):
    """Element offset of channel c within a sample."""
    if LAYOUT == PIXELS:
        return c
    elif LAYOUT == ROWS:
        return c.to(tl.int64) * aligned(strides[1], ALIGN)
    else:
        return c.to(tl.int64) * strides[1]


@triton.jit
def position_offset(i, width, strides, LAYOUT: tl.constexpr, ALIGN: tl.constexpr):
    """Element offset of position i within a channel."""
    if LAYOUT == ROWS:
        return i
    elif LAYOUT == PIXELS:
        # A one-column map has its pixels along the height.
        pixel = tl.where(width > 1, strides[3], strides[2])
        return i.to(tl.int64) * aligned(pixel, ALIGN)
    else:
        return (i // width).to(tl.int64) * strides[2] + (i % width).to(tl.int64) * strides[3]


@triton.jit
def attention_map(
    features,  # [B, C, H, W], any strides and dtype
    strides,  # (b, c, h, w)
    b,  # sample
    channels,
    first,  # channels [first, last) are summed; last is channels, or first and whole blocks
    last,
    begin,  # positions [begin, begin + BLOCK_N)
    height,
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):
    """f [BLOCK_N] in the compute dtype, 0 beyond the map. Tiles lie as memory does: 16-byte
    loads."""
    i = begin + tl.arange(0, BLOCK_N)
    positions = height * width
    if LAYOUT == ROWS:
        positions = aligned(positions, ALIGN)
    elif LAYOUT == PIXELS:
        channels = aligned(channels, ALIGN)
    valid = i < positions
    a = features + sample_offset(b, strides, ALIGN)
    at = position_offset(i, width, strides, LAYOUT, ALIGN)
    if LAYOUT == PIXELS:
        total = tl.zeros((BLOCK_N, BLOCK_C), ACC)
        for start in range(first, last, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            mask = valid[:, None] & (c < channels)[None, :]
            tile = tl.load(a + at[:, None] + c[None, :], mask=mask, other=0.0).to(ACC)
            total += tile * tile
        return tl.sum(total, axis=1)
    else:
        total = tl.zeros((BLOCK_C, BLOCK_N), ACC)
        for start in range(first, last, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            mask = (c < channels)[:, None] & valid[None, :]
            offset = channel_offset(c, strides, LAYOUT, ALIGN)[:, None] + at[None, :]
            tile = tl.load(a + offset, mask=mask, other=0.0).to(ACC)
            total += tile * tile
        return tl.sum(total, axis=0)


@triton.jit
def root(f):
    """The square root, rounded to nearest; Triton's own of float32 takes tiny numbers as 0."""
    if f.dtype == tl.float64:
        return tl.sqrt(f)
    else:
        return tl.sqrt_rn(f)
