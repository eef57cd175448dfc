"""The forward kernels' launches as data: arguments, blocks and compile-time constants.

A launch takes all layer pairs of one form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from amd_fused.kernels import amd_chunks, amd_fwd, plan

# The interpreter has no device to ask: that of an H100.
INTERPRETER_MULTIPROCESSORS = 132
# More than these kernels need. Without a limit ptxas (CUDA 13) now and then aims below what they
# need, and spills a few words.
MAX_REGISTERS = {torch.float32: 128, torch.float64: 255}


@dataclass
class Launch:
    """One kernel launch, kept as data so that tests can compile it for other devices."""

    kernel: Any
    programs: int
    args: tuple[Any, ...]
    constants: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        # Fusing multiplications with additions is the default of Triton up to 3.9 only.
        self.kernel[(self.programs,)](*self.args, enable_fp_fusion=True, **self.constants)


def run_all(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch.run()


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
        multiprocessors = _multiprocessors(a_s.device)
        self.form = plan.form_of(student, teacher, layers, multiprocessors, double)
        self.batch = student.shape[0]
        self.maps: list[Tensor] = []
        self.map_tiles = [plan.map_tile(a, multiprocessors) for a in (student, teacher)]


def map_launch(pairs: list[Pair], dtype: torch.dtype) -> Launch:
    sides = [(a, f) for p in pairs for a, f in ((p.a_s, p.student), (p.a_t, p.teacher))]
    tiles = tuple(tile for p in pairs for tile in p.map_tiles)
    maps = tuple(
        a.new_empty(tile[-1], a.shape[0], f.positions, dtype=dtype)
        for (a, f), tile in zip(sides, tiles, strict=True)
    )
    for number, pair in enumerate(pairs):
        pair.maps = list(maps[2 * number : 2 * number + 2])
    programs = plan.running_total(
        [plan.map_programs(f, tile) for (_, f), tile in zip(sides, tiles, strict=True)]
    )
    return Launch(
        amd_fwd.amd_map_fwd_kernel,
        programs[-1],
        (
            tuple(a for a, _ in sides),
            tuple(f.strides for _, f in sides),
            tuple(f.shape[1:] for _, f in sides),
            maps,
            programs,
            pairs[0].batch,
        ),
        {
            **columns(("BLOCKS_N", "BLOCKS_C", "LAYOUTS", "ALIGNS", "CHANNEL_GROUPS"), tiles),
            "ACC": _triton_dtype(dtype),
            "num_warps": 4,
            "maxnreg": MAX_REGISTERS[dtype],
        },
    )


def fused_launch(pairs: list[Pair], losses: Tensor, compiled: tuple[float, ...]) -> Launch:
    tiles = tuple(plan.fused_tile(p.student, p.teacher) for p in pairs)
    names = (
        "BLOCKS_N", "BLOCKS_C", "QUADRANT_BLOCKS", "LAYOUTS_S", "ALIGNS_S", "LAYOUTS_T", "ALIGNS_T",
    )  # fmt: skip
    largest = max(4 * tile[2] for tile in tiles)
    return Launch(
        amd_fwd.amd_fused_fwd_kernel,
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
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs),
            **columns(names, tiles),
            "OPTIONS": compiled,
            "ACC": _triton_dtype(losses.dtype),
            "num_warps": plan.warps(largest),
        },
    )


def sample_launch(pairs: list[Pair], losses: Tensor, compiled: tuple[float, ...]) -> Launch:
    tiles = tuple(
        (plan.quadrant_block(p.student), *(tile[-1] for tile in p.map_tiles)) for p in pairs
    )
    return Launch(
        amd_fwd.amd_sample_fwd_kernel,
        len(pairs) * pairs[0].batch,
        (
            tuple(p.maps[0] for p in pairs),
            tuple(p.maps[1] for p in pairs),
            tuple(p.student.shape[2:] for p in pairs),
            tuple(p.d_f_s for p in pairs),
            tuple(p.d_f_t for p in pairs),
            losses,
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs),
            **columns(("QUADRANT_BLOCKS", "CHANNEL_GROUPS_S", "CHANNEL_GROUPS_T"), tiles),
            "OPTIONS": compiled,
            "num_warps": plan.warps(max(4 * tile[0] for tile in tiles)),
        },
    )


def chunk_launches(pairs: list[Pair], losses: Tensor, compiled: tuple[float, ...]) -> list[Launch]:
    blocks = [min(plan.CHUNK, plan.quadrant_block(p.student)) for p in pairs]
    tiles = tuple(
        (block, *(tile[-1] for tile in p.map_tiles)) for p, block in zip(pairs, blocks, strict=True)
    )
    chunks = [plan.chunks(p.student, block) for p, block in zip(pairs, blocks, strict=True)]
    sums = tuple(
        tuple(losses.new_empty(p.batch, count, slots, 4) for slots in (2, 6, 6, 2))
        for p, count in zip(pairs, chunks, strict=True)
    )
    programs = plan.running_total([p.batch * c for p, c in zip(pairs, chunks, strict=True)])
    args = (
        tuple(p.maps[0] for p in pairs),
        tuple(p.maps[1] for p in pairs),
        tuple(p.student.shape[2:] for p in pairs),
        tuple(chunks),
        tuple(p.d_f_s for p in pairs),
        tuple(p.d_f_t for p in pairs),
        losses,
        sums,
        programs,
        pairs[0].batch,
    )
    constants = {
        **_sample_constants(pairs),
        **columns(("BLOCKS", "CHANNEL_GROUPS_S", "CHANNEL_GROUPS_T"), tiles),
        "OPTIONS": compiled,
        "num_warps": 8,
        "maxnreg": MAX_REGISTERS[losses.dtype],
    }
    wanted = any(any(p.needs_grad) for p in pairs)
    return [
        Launch(amd_chunks.amd_chunk_fwd_kernel, programs[-1], args, {**constants, "PASS": number})
        for number in range(5)
        if wanted or number != amd_chunks.SLOPE.value
    ]


def _sample_constants(pairs: list[Pair]) -> dict[str, Any]:
    return {
        "ROWS_OF_LOSSES": tuple(p.row for p in pairs),
        "LAYER_WEIGHTS": tuple(p.weight for p in pairs),
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


_MULTIPROCESSORS: dict[torch.device, int] = {}


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETER_MULTIPROCESSORS
    if device not in _MULTIPROCESSORS:
        properties = torch.cuda.get_device_properties(device)
        _MULTIPROCESSORS[device] = properties.multi_processor_count
    return _MULTIPROCESSORS[device]
