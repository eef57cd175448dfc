"""The forward kernels' launches as data: arguments, blocks and compile-time constants.

A launch takes all layer pairs of one form.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.triton import series
from amd_fused.losses._common.triton.launch import TRITON, Launch, multiprocessors_of
from amd_fused.losses.amd.options import Operands
from amd_fused.losses.amd.triton import chunks as chunk_kernels
from amd_fused.losses.amd.triton import forward, plan

# More than these kernels need. Without a limit ptxas (CUDA 13) now and then aims below what they
# need, and spills a few words.
MAX_REGISTERS = {torch.float32: 128, torch.float64: 255}
# Of the fused kernel with 8 warps: 128 let two programs share a multiprocessor, and Triton 3.4 and
# 3.6 spill nothing there. Triton 3.9 (CUDA 13) spills up to 40 bytes at 128, none at 168.
FUSED_REGISTERS = {torch.float32: 128 if TRITON < (3, 9) else 168, torch.float64: 255}


@dataclass
class Options:
    """The loss's options as the kernels take them, at the places that formulas names."""

    compiled: tuple[float, ...]
    numbers: tuple[float, ...]


def options(operands: Operands, double: bool) -> Options:
    coefficients = operands.margin_polynomial or ()
    atanh = series.ATANH_64 if double else series.ATANH_32
    arccos = series.ARCCOS_64 if double else series.ARCCOS_32
    threshold, local_weight = operands.mask_threshold, operands.local_weight
    compiled = (
        operands.released, threshold is not None, local_weight > 0, operands.position_mean,
        len(coefficients), len(atanh), *atanh, *arccos,
    )  # fmt: skip
    of_g, of_p, of_n = operands.component_weights
    whole = [weight / 3 * (1 - local_weight) for weight in (of_p, of_n, of_g)]
    quadrants = [weight / 12 * local_weight for weight in (of_p, of_n, of_g)]
    threshold = 0.0 if threshold is None else threshold
    numbers = (
        operands.margin, operands.scale, operands.eps, threshold, *whole, *quadrants, *coefficients,
    )  # fmt: skip
    return Options(compiled, passed(numbers, double))


def passed(numbers: Sequence[float], double: bool) -> tuple[float, ...]:
    """Numbers as arguments of a kernel, which `formulas.number` reads.

    Triton takes a Python number as float32. The 64 bits of a float64 therefore travel as three
    integers of 22, 21 and 21 bits, which float32 holds exactly; as numbers of Triton's integer
    types, values of 1 and multiples of 16 would compile anew.
    """
    if not double:
        return tuple(float(x) for x in numbers)
    low = (1 << 21) - 1
    bits = [struct.unpack("<Q", struct.pack("<d", x))[0] for x in numbers]
    return tuple(float(part) for b in bits for part in (b >> 42, b >> 21 & low, b & low))


class Pair:
    """One layer pair of a call: its tensors, form and tiles."""

    def __init__(
        self,
        row: int,
        a_s: Tensor,
        a_t: Tensor,
        d_f_s: Tensor | None,
        d_f_t: Tensor | None,
        weight: float,
        layers: int,
        double: bool,
    ) -> None:
        self.row, self.a_s, self.a_t, self.weight = row, a_s, a_t, weight
        self.d_f_s, self.d_f_t = d_f_s, d_f_t
        self.needs_grad = (d_f_s is not None, d_f_t is not None)
        self.student, self.teacher = student, teacher = feature(a_s), feature(a_t)
        multiprocessors = multiprocessors_of(a_s.device)
        self.form = plan.form_of(student, teacher, layers, multiprocessors, double)
        self.batch = student.shape[0]
        self.maps: list[Tensor] = []
        self.map_tiles = [plan.map_tile(a, multiprocessors) for a in (student, teacher)]


def map_launch(pairs: list[Pair], dtype: torch.dtype) -> Launch:
    sides = [a for p in pairs for a in (p.a_s, p.a_t)]
    tiles = [tile for p in pairs for tile in p.map_tiles]
    maps = [
        a.new_empty(tile[-1], a.shape[0], a.shape[2] * a.shape[3], dtype=dtype)
        for a, tile in zip(sides, tiles, strict=True)
    ]
    for number, pair in enumerate(pairs):
        pair.maps = maps[2 * number : 2 * number + 2]
    return launch_of_maps(sides, tiles, maps, root=False)


def launch_of_maps(
    tensors: Sequence[Tensor],
    tiles: Sequence[tuple[int, int, int, int, int]],
    maps: Sequence[Tensor],
    root: bool,
) -> Launch:
    """Of features and their `plan.map_tile`s into maps [GROUPS, B, N], or (root) the square
    roots of these."""
    sides = [feature(a) for a in tensors]
    programs = plan.running_total(
        [plan.map_programs(side, tile) for side, tile in zip(sides, tiles, strict=True)]
    )
    return Launch(
        forward.amd_map_fwd_kernel,
        programs[-1] * sides[0].shape[0],
        (
            tuple(tensors),
            tuple(side.strides for side in sides),
            tuple(side.shape[1:] for side in sides),
            tuple(maps),
            programs,
            sides[0].shape[0],
        ),
        {
            **columns(("BLOCKS_N", "BLOCKS_C", "LAYOUTS", "ALIGNS", "CHANNEL_GROUPS"), tiles),
            "ROOT": root,
            "ACC": _triton_dtype(maps[0].dtype),
            "num_warps": 4,
            "maxnreg": MAX_REGISTERS[maps[0].dtype],
        },
    )


def fused_launch(pairs: list[Pair], losses: Tensor, chosen: Options) -> Launch:
    tiles = tuple(plan.fused_tile(p.student, p.teacher) for p in pairs)
    names = (
        "BLOCKS_N", "BLOCKS_C", "QUADRANT_BLOCKS", "LAYOUTS_S", "ALIGNS_S", "LAYOUTS_T", "ALIGNS_T",
    )  # fmt: skip
    largest = max(4 * tile[2] for tile in tiles)
    return Launch(
        forward.amd_fused_fwd_kernel,
        len(pairs) * pairs[0].batch,
        (
            tuple(p.a_s for p in pairs),
            tuple(p.a_t for p in pairs),
            tuple(p.student.strides for p in pairs),
            tuple(p.teacher.strides for p in pairs),
            tuple((p.student.shape[1], *p.teacher.shape[1:]) for p in pairs),
            tuple(p.d_f_s for p in pairs),
            tuple(p.d_f_t for p in pairs),
            losses,
            _layer_weights(pairs, losses),
            chosen.numbers,
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs),
            **columns(names, tiles),
            "OPTIONS": chosen.compiled,
            "ACC": _triton_dtype(losses.dtype),
            "num_warps": plan.fused_warps(largest),
            "maxnreg": FUSED_REGISTERS[losses.dtype] if plan.fused_warps(largest) > 4 else 255,
        },
    )


def sample_launch(pairs: list[Pair], losses: Tensor, chosen: Options) -> Launch:
    tiles = tuple(
        (plan.quadrant_block(p.student), *(tile[-1] for tile in p.map_tiles)) for p in pairs
    )
    return Launch(
        forward.amd_sample_fwd_kernel,
        len(pairs) * pairs[0].batch,
        (
            tuple(p.maps[0] for p in pairs),
            tuple(p.maps[1] for p in pairs),
            tuple(p.student.shape[2:] for p in pairs),
            tuple(p.d_f_s for p in pairs),
            tuple(p.d_f_t for p in pairs),
            losses,
            _layer_weights(pairs, losses),
            chosen.numbers,
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs),
            **columns(("QUADRANT_BLOCKS", "CHANNEL_GROUPS_S", "CHANNEL_GROUPS_T"), tiles),
            "OPTIONS": chosen.compiled,
            "num_warps": plan.sample_warps(max(4 * tile[0] for tile in tiles)),
        },
    )


def chunk_launches(pairs: list[Pair], losses: Tensor, chosen: Options) -> list[Launch]:
    blocks = [min(plan.CHUNK, plan.quadrant_block(p.student)) for p in pairs]
    tiles = tuple(
        (block, *(tile[-1] for tile in p.map_tiles)) for p, block in zip(pairs, blocks, strict=True)
    )
    chunks = [plan.chunks(p.student, block) for p, block in zip(pairs, blocks, strict=True)]
    sums = tuple(
        tuple(losses.new_empty(p.batch, count, slots, 4) for slots in (2, 6, 6, 2))
        for p, count in zip(pairs, chunks, strict=True)
    )
    programs = plan.running_total(chunks)
    args = (
        tuple(p.maps[0] for p in pairs),
        tuple(p.maps[1] for p in pairs),
        tuple(p.student.shape[2:] for p in pairs),
        tuple(chunks),
        tuple(p.d_f_s for p in pairs),
        tuple(p.d_f_t for p in pairs),
        losses,
        _layer_weights(pairs, losses),
        chosen.numbers,
        sums,
        programs,
        pairs[0].batch,
    )
    constants = {
        **_sample_constants(pairs),
        **columns(("BLOCKS", "CHANNEL_GROUPS_S", "CHANNEL_GROUPS_T"), tiles),
        "OPTIONS": chosen.compiled,
        "num_warps": 8,
        "maxnreg": MAX_REGISTERS[losses.dtype],
    }
    wanted = any(any(p.needs_grad) for p in pairs)
    return [
        Launch(
            chunk_kernels.amd_chunk_fwd_kernel,
            programs[-1] * pairs[0].batch,
            args,
            {**constants, "PASS": number},
        )
        for number in range(5)
        if wanted or number != chunk_kernels.SLOPE.value
    ]


def _layer_weights(pairs: list[Pair], losses: Tensor) -> tuple[float, ...]:
    return passed([p.weight for p in pairs], losses.dtype == torch.float64)


def _sample_constants(pairs: list[Pair]) -> dict[str, Any]:
    return {
        "ROWS_OF_LOSSES": tuple(p.row for p in pairs),
        "GRADS_S": tuple(p.needs_grad[0] for p in pairs),
        "GRADS_T": tuple(p.needs_grad[1] for p in pairs),
    }


def columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Compile-time tuples with one entry a row. Triton before 3.9 takes no nested ones."""
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def feature(a: Tensor) -> plan.Feature:
    batch, channels, height, width = a.shape
    stride_b, stride_c, stride_h, stride_w = a.stride()
    return plan.Feature(
        (batch, channels, height, width), (stride_b, stride_c, stride_h, stride_w), a.element_size()
    )


def _triton_dtype(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32
