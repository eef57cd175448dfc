"""Positions of feature maps of any strides, for the losses that read them channel by channel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a feature that a program holds at once: 16 a thread in float32, 8 in float64.
_BLOCK = {torch.float32: 2048, torch.float64: 1024}
_LARGEST_ROW = 1024
# Of pixels: 64 bytes of neighbours in half precision.
_CHANNELS = 32


@triton.jit
def offsets(n, width, stride_h, stride_w, FLAT: tl.constexpr):
    """Of positions of the flattened map; FLAT: stride_w leads from each to the next."""
    n = n.to(tl.int64)
    if FLAT:
        return n * stride_w
    return (n // width) * stride_h + (n % width) * stride_w


def strides(a: Tensor) -> tuple[bool, int, int, int, int]:
    """Whether one stride leads through all positions, and the strides, that one last."""
    _, _, height, width = a.shape
    of_b, of_c, of_h, of_w = a.stride()
    if width == 1:
        return True, of_b, of_c, 0, of_h
    return height == 1 or of_h == width * of_w, of_b, of_c, of_h, of_w


def tile_of(a: Tensor, dtype: torch.dtype) -> tuple[int, int]:
    """Channels and positions that a program holds at once."""
    _, channels, height, width = a.shape
    _, _, of_c, _, of_n = strides(a)
    size = _BLOCK[dtype]
    most = triton.next_power_of_2(channels), triton.next_power_of_2(height * width)
    if of_c < of_n:
        block_c = min(most[0], _CHANNELS)
        return block_c, min(most[1], size // block_c)
    block_n = min(most[1], _LARGEST_ROW)
    return min(most[0], size // block_n), block_n
