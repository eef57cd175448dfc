"""The rules that choose a form and its blocks."""

from __future__ import annotations

import cases
import pytest
import torch

from amd_fused.losses.amd.triton import plan


def feature(*shape: int, channels_last: bool = False, itemsize: int = 4) -> plan.Feature:
    a = torch.empty(shape, device="meta")
    if channels_last:
        a = a.contiguous(memory_format=torch.channels_last)
    return plan.Feature(tuple(a.shape), tuple(a.stride()), itemsize)


def form(*shape: int, layers: int = 3, channels_last: bool = False, double: bool = False) -> str:
    a = feature(*shape, channels_last=channels_last)
    return plan.form_of(a, a, layers, multiprocessors=132, double=double)


def test_benchmark_shapes_take_the_forms_that_the_header_says() -> None:
    assert form(128, 48, 32, 32) == form(128, 192, 8, 8) == plan.FUSED
    assert form(256, 128, 28, 28, layers=4) == form(256, 512, 7, 7, layers=4) == plan.FUSED
    assert form(256, 64, 56, 56, layers=4) == plan.SPLIT
    assert form(256, 64, 28, 28, layers=4, channels_last=True) == plan.SPLIT
    assert form(256, 512, 7, 7, layers=4, channels_last=True) == plan.FUSED
    assert form(4, 256, 200, 336) == form(2, 16, 512, 512) == plan.CHUNKED


def test_small_batches_of_large_features_are_split() -> None:
    assert form(1, 64, 56, 56, layers=1) == plan.SPLIT
    assert form(1, 64, 7, 7, layers=1) == plan.FUSED, "25 KB: one program reads that at once"


def test_float64_leaves_the_registers_at_half_the_size() -> None:
    assert form(256, 64, 56, 56, double=True) == plan.CHUNKED
    assert form(256, 64, 28, 28, double=True) == plan.FUSED


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_are_recognised(layout: str) -> None:
    student, _ = cases.features((2, 6, 3, 5, 7), layout=layout)
    found = plan.Feature(tuple(student.shape), tuple(student.stride()), 4).layout
    expected = {
        "nchw": plan.ROWS,
        "unaligned": plan.ROWS,
        "every second channel": plan.ROWS,
        "channels_last": plan.PIXELS,
        "channels of a larger channels_last": plan.PIXELS,
    }
    assert found == expected.get(layout, plan.STRIDED)


def test_alignment_divides_every_row_pixel_and_sample() -> None:
    assert feature(2, 8, 14, 14).align == 4
    assert feature(2, 8, 7, 7).align == 1
    assert feature(2, 24, 7, 7, channels_last=True).align == 8
    larger = feature(2, 64, 7, 7, channels_last=True)
    part = plan.Feature((2, 6, 7, 7), larger.strides, 4)
    assert part.align == 2, "6 channels of 64: pixels begin at 16-byte words but do not end there"
    assert feature(2, 64, 56, 56).align == 16


def test_flat_backward_tiles_end_where_32_bits_do() -> None:
    """Odd rows without gaps are one flat stretch, whose elements are counted in int32."""
    largest, larger = feature(1, 43968, 221, 221), feature(1, 43969, 221, 221)
    assert largest.shape[1] * largest.positions + plan.BWD_TILE < 2**31
    assert larger.shape[1] * larger.positions + plan.BWD_TILE > 2**31
    assert plan.bwd_tile(largest, largest)[2] == plan.FLAT
    assert plan.bwd_tile(larger, larger)[2] == plan.ROWS


def test_map_programs_cover_every_position_and_channel_group() -> None:
    a = feature(3, 300, 20, 30)
    tile = plan.map_tile(a, multiprocessors=132)
    block_n, *_, groups = tile
    assert plan.map_programs(a, tile) == -(-600 // block_n) * groups
    assert groups > 1, "3 samples leave most of 132 multiprocessors idle otherwise"


def test_programs_are_numbered_without_gaps() -> None:
    assert plan.running_total([3, 0, 5]) == (0, 3, 3, 8)
