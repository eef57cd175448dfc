"""Which form of the forward kernels each layer takes, and the blocks of every launch: fixed rules.

From shapes, strides and the device's multiprocessor count alone; nothing is timed. The rules:

- FUSED, maps and samples in one kernel, one program a (layer, sample): the map is small (padded to
  a power of two: <= 1024 positions for NCHW, so that two programs share a multiprocessor and one
  reads while the other computes; <= 256 for channels_last and other strides, whose tiles must hold
  several channels of every position), and either the call has at least two such programs a
  multiprocessor, or a program reads no more than 128 KiB.
- SPLIT, maps first, by position and channel blocks, then one program a (layer, sample): the map
  fits in registers (<= 4096), but its features are better read by more programs.
- CHUNKED, maps first, then five short passes over chunks of positions: maps of any larger size. In
  float64, which takes two registers a number, from half that size on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FUSED, SPLIT, CHUNKED = "fused", "split", "chunked"
ROWS, PIXELS, STRIDED = 0, 1, 2
FLAT = 3

MAX_POSITIONS = 4096
MAX_FUSED_ROWS = 1024
MAX_FUSED_PIXELS = 256
SMALL_BYTES = 128 << 10
MAX_GROUPS = 16
CHUNK = 256  # positions of each quadrant
MAP_TILE = 4096  # elements of one tile of the map kernel
MAX_MAP_POSITIONS = 512  # of it: each has an offset of 64 bits where channels are few
FUSED_TILE = 8192
BWD_TILE = 4096
MAX_FLAT = 2**31 - BWD_TILE  # elements of a sample, its last tile with them


@dataclass(frozen=True)
class Feature:
    """Shape, strides and element size of one side of a layer pair."""

    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    itemsize: int

    @property
    def positions(self) -> int:
        return self.shape[2] * self.shape[3]

    @property
    def layout(self) -> int:
        """ROWS, PIXELS or STRIDED; sizes of 1 make a stride meaningless."""
        _, channels, height, width = self.shape
        _, stride_c, stride_h, stride_w = self.strides
        if height > 1 and width > 1 and stride_h != width * stride_w:
            return STRIDED
        pixel = stride_w if width > 1 else stride_h
        dense_positions = self.positions == 1 or pixel == 1
        dense_channels = channels == 1 or stride_c == 1
        if dense_channels and (self.positions == 1 or not dense_positions):
            return PIXELS
        return ROWS if dense_positions else STRIDED

    @property
    def align(self) -> int:
        """A power of two, 16 at most, that divides every offset at which a row or pixel begins or
        ends."""
        if self.layout == ROWS:
            return math.gcd(16, self.positions, self.strides[0], self.strides[1])
        if self.layout == PIXELS:
            pixel = self.strides[3] if self.shape[3] > 1 else self.strides[2]
            return math.gcd(16, self.strides[0], pixel, self.shape[1])
        return math.gcd(16, self.strides[0])

    @property
    def bytes_per_sample(self) -> int:
        return self.shape[1] * self.positions * self.itemsize


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def form_of(
    student: Feature, teacher: Feature, layers: int, multiprocessors: int, double: bool
) -> str:
    """The form of one layer pair in a call of `layers` pairs."""
    padded = 4 * quadrant_block(student)
    if padded > MAX_POSITIONS // (2 if double else 1):
        return CHUNKED
    rows = student.layout == teacher.layout == ROWS
    fits = padded <= (MAX_FUSED_ROWS if rows else MAX_FUSED_PIXELS)
    many = student.shape[0] * layers >= 2 * multiprocessors
    small = student.bytes_per_sample + teacher.bytes_per_sample <= SMALL_BYTES
    return FUSED if fits and (many or small) else SPLIT


def quadrant_block(a: Feature) -> int:
    """M of the per-sample tiles: positions of the largest quadrant, padded to a power of two."""
    _, _, height, width = a.shape
    return max(4, next_power_of_2((height - height // 2) * (width - width // 2)))


def chunks(a: Feature, block: int) -> int:
    """Chunks of `block` positions in the largest quadrant."""
    _, _, height, width = a.shape
    return -(-(height - height // 2) * (width - width // 2) // block)


def fused_tile(student: Feature, teacher: Feature) -> tuple[int, ...]:
    """(BLOCK_N, BLOCK_C, M, LAYOUT_S, ALIGN_S, LAYOUT_T, ALIGN_T) of the fused kernel."""
    block_n = max(16, next_power_of_2(student.positions))
    channels = next_power_of_2(max(student.shape[1], teacher.shape[1]))
    block_c = max(1, min(channels, FUSED_TILE // block_n))
    m = quadrant_block(student)
    return block_n, block_c, m, student.layout, student.align, teacher.layout, teacher.align


def map_tile(a: Feature, multiprocessors: int) -> tuple[int, int, int, int, int]:
    """(BLOCK_N, BLOCK_C, LAYOUT, ALIGN, GROUPS) of the map kernel."""
    padded, channels = next_power_of_2(a.positions), next_power_of_2(a.shape[1])
    if a.layout == PIXELS:
        block_c = max(1, min(channels, 64))
        block_n = max(16, min(padded, MAX_MAP_POSITIONS, MAP_TILE // block_c))
    else:
        block_n = max(16, min(padded, MAX_MAP_POSITIONS))
        block_c = max(1, min(channels, MAP_TILE // block_n))
    programs = a.shape[0] * -(-a.positions // block_n)
    # Channel groups where positions and samples alone would leave multiprocessors idle.
    groups = 1
    while (
        groups < MAX_GROUPS
        and programs * groups < 2 * multiprocessors
        and a.shape[1] // (2 * groups) >= 2 * block_c
    ):
        groups *= 2
    return block_n, block_c, a.layout, a.align, groups


def map_programs(a: Feature, tile: tuple[int, int, int, int, int]) -> int:
    """Of one sample."""
    block_n, *_, groups = tile
    return -(-a.positions // block_n) * groups


def bwd_tile(a: Feature, out: Feature) -> tuple[int, int, int, int]:
    """(BLOCK_N, BLOCK_C, FORM, ALIGN) of the backward kernel."""
    padded, channels = next_power_of_2(a.positions), next_power_of_2(a.shape[1])
    align = math.gcd(a.align, out.align)
    if a.layout == out.layout == PIXELS:
        block_c = min(channels, 256)
        return max(1, min(padded, BWD_TILE // block_c)), block_c, PIXELS, align
    if a.layout == out.layout == ROWS:
        gapless = a.strides[1] == out.strides[1] == a.positions or a.shape[1] == 1
        # FLAT counts a sample's elements in 32 bits: dividing 64-bit numbers for each would cost
        # more than narrow words.
        countable = a.shape[1] * a.positions < MAX_FLAT
        if gapless and countable and align * a.itemsize < 16:
            align = math.gcd(16, a.shape[1] * a.positions, a.strides[0], out.strides[0])
            return BWD_TILE // 2, 1, FLAT, align
        block_n = max(1, min(padded, 1024))
        return block_n, max(1, min(channels, BWD_TILE // block_n)), ROWS, align
    block_n = max(1, min(padded, 256))
    return block_n, max(1, min(channels, BWD_TILE // 2 // block_n)), STRIDED, 1


def bwd_programs(a: Feature, tile: tuple[int, int, int, int]) -> int:
    """Of one sample."""
    block_n, block_c, form, _ = tile
    channels = a.shape[1]
    if form == FLAT:
        return -(-channels * a.positions // block_n)
    return -(-a.positions // block_n) * -(-channels // block_c)


def fused_warps(positions: int) -> int:
    """Of a program that reads a sample and holds its maps: 4 positions a thread."""
    return max(4, positions // 128)


def sample_warps(positions: int) -> int:
    """Of a program that holds a sample's maps: 8 positions a thread, in 128 registers. With 4 the
    largest maps would leave a thread 64 registers, and spill."""
    return max(4, positions // 256)


def running_total(counts: Sequence[int]) -> tuple[int, ...]:
    """First program of each, and the end."""
    total, result = 0, [0]
    for count in counts:
        total += count
        result.append(total)
    return tuple(result)
