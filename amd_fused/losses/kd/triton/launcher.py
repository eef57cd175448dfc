"""Host side of the Triton KD losses: from logits and options to launches.

A matrix [B, K] is one map of B positions. Bytes for [B, K] logits of s bytes (the same on both
sides), each way one launch, forward followed by torch's sum of B numbers:

forward   2 s B K read; spherical and K > MAX_TILE: read twice, the second time out of the L2
          cache; 12 numbers a row written, 6 for KD on maps
backward  2 s B K read, s B K written for each gradient

The gradient is not left behind by the forward pass: it would have to be kept in float32, for the
upstream gradient is applied before the cast. Written, read and rewritten it costs (8 + s) B K;
reading the logits again costs (2 s + s) B K, less for half precision and as much for float32, and
no memory.
"""

from __future__ import annotations

import ctypes
import math

import torch
import triton
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.triton.launch import Launch, Submit, on_device, run_all
from amd_fused.losses.kd.operator import MAP_NUMBERS
from amd_fused.losses.kd.triton.backward import kd_bwd_kernel
from amd_fused.losses.kd.triton.formulas import NUMBERS
from amd_fused.losses.kd.triton.forward import kd_row_fwd_kernel, kd_wide_fwd_kernel

# Classes that a program holds in registers; rows of more are read in blocks of WIDE_TILE.
MAX_TILE = {torch.float32: 8192, torch.float64: 2048}
WIDE_TILE = {torch.float32: 4096, torch.float64: 1024}
BWD_TILE = 1024  # classes of a program of the backward pass
# Short rows share a program, as long as this many programs remain and up to so many numbers.
MANY_PROGRAMS, ROWS_TILE = 512, 1024
# Positions side by side that a program takes at least, 128 bytes of float32, up to so many numbers.
LINE, LINES_TILE = 32, 2048


def kd_fwd_triton(
    student: Tensor,
    teacher: Tensor,
    numbers: Tensor,
    norm: int,
    fixed_radius: bool,
    submit: Submit = run_all,
) -> tuple[Tensor, Tensor]:
    """The operator `kd_fwd` of kd/operator.py, which describes arguments and result."""
    rows = student.new_empty(len(student), NUMBERS, dtype=compute_dtype([student, teacher]))
    maps = _as_map(student), _as_map(teacher)
    return _forward(*maps, None, rows, numbers, norm, fixed_radius, submit), rows


def kd_map_fwd_triton(
    student: Tensor,
    teacher: Tensor,
    counted: Tensor | None,
    numbers: Tensor,
    norm: int,
    fixed_radius: bool,
    submit: Submit = run_all,
) -> tuple[Tensor, Tensor]:
    """The operator `kd_map_fwd`."""
    batch, _, positions = student.shape
    each = NUMBERS if norm else MAP_NUMBERS
    rows = student.new_empty(batch, each, positions, dtype=compute_dtype([student, teacher]))
    return _forward(student, teacher, counted, rows, numbers, norm, fixed_radius, submit), rows


def kd_bwd_triton(
    grad_loss: Tensor,
    student: Tensor,
    teacher: Tensor,
    rows: Tensor,
    numbers: Tensor,
    student_grad: bool,
    teacher_grad: bool,
    submit: Submit = run_all,
) -> list[Tensor]:
    """The operators `kd_bwd` and, of maps, `kd_map_bwd`."""
    inputs = ((student, student_grad), (teacher, teacher_grad))
    gradients = [torch.empty_like(z) for z, needed in inputs if needed]
    student, teacher = _as_map(student), _as_map(teacher)
    batch, width, positions = student.shape
    temperature = numbers[0].item()
    # The kernel does not touch the gradient that nobody wants: any tensor stands for it.
    d_z_s, d_z_t = _as_map(gradients[0]), _as_map(gradients[-1])
    tile = min(BWD_TILE, triton.next_power_of_2(width))
    rows_each = _rows_each(student, tile)
    launch = Launch(
        kd_bwd_kernel,
        batch * triton.cdiv(positions, rows_each) * triton.cdiv(width, tile),
        (
            grad_loss, student, teacher, rows, d_z_s, d_z_t, positions, width, *student.stride(),
            *teacher.stride(), *d_z_s.stride(), *d_z_t.stride(), *_two_floats(1 / temperature),
            *_two_floats(temperature**2 / (batch * positions)),
        ),
        {
            "NEEDS_S": student_grad,
            "NEEDS_T": teacher_grad,
            **_layout(rows),
            "ROWS": rows_each,
            "TILE": tile,
            "ALIGN": _alignment(student, teacher, d_z_s, d_z_t),
            "num_warps": _warps(rows_each * tile, rows),
            # Left to itself, ptxas aims at 72 in float64 and spills.
            "maxnreg": 128,
        },
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return gradients


kd_map_bwd_triton = kd_bwd_triton


def _as_map(z: Tensor) -> Tensor:
    """[B, K] as one map [1, K, B]; a map [B, K, N] as it is."""
    return z if z.ndim == 3 else z.t().unsqueeze(0)


def _forward(
    student: Tensor,
    teacher: Tensor,
    counted: Tensor | None,
    rows: Tensor,
    numbers: Tensor,
    norm: int,
    fixed_radius: bool,
    submit: Submit,
) -> Tensor:
    batch, width, positions = student.shape
    temperature, multiplier = numbers.tolist()
    dtype = rows.dtype
    losses = student.new_empty(batch * positions, dtype=dtype)
    args = (
        student, teacher, losses if counted is None else counted.view(torch.uint8), losses, rows,
        positions, width, *student.stride(), *teacher.stride(),
        *_two_floats(1 / temperature), *_two_floats(multiplier),
        *_two_floats(temperature**2 / (batch * positions)),
    )  # fmt: skip
    constants = {
        "NORM": norm,
        "FIXED_RADIUS": fixed_radius,
        **_layout(rows),
        "MASKED": counted is not None,
        "ALIGN": _alignment(student, teacher),
    }
    if width <= MAX_TILE[dtype]:
        tile = triton.next_power_of_2(width)
        rows_each = _rows_each(student, tile)
        launch = Launch(
            kd_row_fwd_kernel,
            batch * triton.cdiv(positions, rows_each),
            args,
            constants
            | {"ROWS": rows_each, "TILE": tile, "num_warps": _warps(rows_each * tile, rows)},
        )
    else:
        tile = WIDE_TILE[dtype]
        # 512 threads have 128 registers each; left alone, ptxas aims at 64 and spills.
        constants |= {"TILE": tile, "num_warps": 16, "maxnreg": 128}
        launch = Launch(kd_wide_fwd_kernel, batch * positions, args, constants)
    with on_device(student.device):
        submit([launch])
    return losses.sum()


def _layout(rows: Tensor) -> dict[str, int | bool]:
    return {"NUMBERS": rows.shape[1], "MAP": rows.ndim == 3}


def _two_floats(value: float) -> tuple[float, float]:
    """value as a sum of float32 numbers: Triton rounds a run-time number to float32, and as a
    compile-time constant every temperature of a schedule would compile anew."""
    high = ctypes.c_float(value).value
    return high, value - high if math.isfinite(high) else 0.0


def _alignment(*maps: Tensor) -> int:
    """Elements by which the logits of all positions are aligned to each other, up to 16."""
    return math.gcd(16, maps[0].shape[1], *(z.stride(axis) for z in maps for axis in (0, 2)))


def _rows_each(z: Tensor, tile: int) -> int:
    """Positions of a program. Those that lie side by side fill whole lines of memory."""
    batch, _, positions = z.shape
    wanted = min(ROWS_TILE // tile, batch * positions // MANY_PROGRAMS)
    if positions > 1 and z.stride(2) == 1 and z.stride(1) > 1:
        wanted = max(wanted, min(LINE, positions, LINES_TILE // tile))
    return 1 << (wanted.bit_length() - 1) if wanted > 1 else 1


def _warps(numbers: int, rows: Tensor) -> int:
    """8 numbers a thread, 16 in the largest tile; 4 of a map in float64, whose offsets need
    registers too."""
    each = 128 if rows.ndim == 3 and rows.dtype == torch.float64 else 256
    return min(16, max(1, numbers // each))
