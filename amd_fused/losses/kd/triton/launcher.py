"""Host side of the Triton KD losses: from logits and options to launches.

Bytes for [B, K] logits of s bytes (the same on both sides), each way one launch, forward followed
by torch's sum of B numbers:

forward   2 s B K read; spherical and K > MAX_TILE: read twice, the second time out of the L2
          cache; 12 numbers a row written
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
from amd_fused.losses.kd.triton.backward import kd_bwd_kernel
from amd_fused.losses.kd.triton.formulas import NUMBERS
from amd_fused.losses.kd.triton.forward import kd_row_fwd_kernel, kd_wide_fwd_kernel

# Classes that a program holds in registers; rows of more are read in blocks of WIDE_TILE.
MAX_TILE = {torch.float32: 8192, torch.float64: 2048}
WIDE_TILE = {torch.float32: 4096, torch.float64: 1024}
BWD_TILE = 1024  # classes of a program of the backward pass
# Short rows share a program, as long as this many programs remain and up to so many numbers.
MANY_PROGRAMS, ROWS_TILE = 512, 1024


def kd_fwd_triton(
    student: Tensor,
    teacher: Tensor,
    numbers: Tensor,
    norm: int,
    fixed_radius: bool,
    submit: Submit = run_all,
) -> tuple[Tensor, Tensor]:
    """The operator `kd_fwd` of kd/operator.py, which describes arguments and result."""
    batch, width = student.shape
    temperature, multiplier = numbers.tolist()
    dtype = compute_dtype([student, teacher])
    losses = student.new_empty(batch, dtype=dtype)
    rows = student.new_empty(batch, NUMBERS, dtype=dtype)
    args = (
        student, teacher, losses, rows, batch, width, *student.stride(), *teacher.stride(),
        *_two_floats(1 / temperature), *_two_floats(multiplier),
        *_two_floats(temperature**2 / batch),
    )  # fmt: skip
    constants = {
        "NORM": norm,
        "FIXED_RADIUS": fixed_radius,
        "ALIGN": _alignment(student, teacher),
    }
    if width <= MAX_TILE[dtype]:
        tile = triton.next_power_of_2(width)
        rows_each = _rows_each(batch, tile)
        launch = Launch(
            kd_row_fwd_kernel,
            triton.cdiv(batch, rows_each),
            args,
            constants | {"ROWS": rows_each, "TILE": tile, "num_warps": _warps(rows_each * tile)},
        )
    else:
        tile = WIDE_TILE[dtype]
        # 512 threads have 128 registers each; left alone, ptxas aims at 64 and spills.
        constants |= {"TILE": tile, "num_warps": 16, "maxnreg": 128}
        launch = Launch(kd_wide_fwd_kernel, batch, args, constants)
    with on_device(student.device):
        submit([launch])
    return losses.sum(), rows


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
    """The operator `kd_bwd` of amd_fused/losses/kd/operator.py."""
    batch, width = student.shape
    temperature = numbers[0].item()
    inputs = ((student, student_grad), (teacher, teacher_grad))
    gradients = [torch.empty_like(z) for z, needed in inputs if needed]
    # The kernel does not touch the gradient that nobody wants: any tensor stands for it.
    d_z_s, d_z_t = gradients[0], gradients[-1]
    tile = min(BWD_TILE, triton.next_power_of_2(width))
    rows_each = _rows_each(batch, tile)
    launch = Launch(
        kd_bwd_kernel,
        triton.cdiv(batch, rows_each) * triton.cdiv(width, tile),
        (
            grad_loss, student, teacher, rows, d_z_s, d_z_t, batch, width, *student.stride(),
            *teacher.stride(), *d_z_s.stride(), *d_z_t.stride(),
            *_two_floats(temperature**2 / batch),
        ),
        {
            "NEEDS_S": student_grad,
            "NEEDS_T": teacher_grad,
            "ROWS": rows_each,
            "TILE": tile,
            "ALIGN": _alignment(student, teacher, d_z_s, d_z_t),
            "num_warps": _warps(rows_each * tile),
            # Left to itself, ptxas aims at 72 in float64 and spills.
            "maxnreg": 128,
        },
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return gradients


def _two_floats(value: float) -> tuple[float, float]:
    """value as a sum of float32 numbers: Triton rounds a run-time number to float32, and as a
    compile-time constant every temperature of a schedule would compile anew."""
    high = ctypes.c_float(value).value
    return high, value - high if math.isfinite(high) else 0.0


def _alignment(*matrices: Tensor) -> int:
    """Elements by which all rows are aligned to each other, up to 16."""
    return math.gcd(16, matrices[0].shape[1], *(z.stride(0) for z in matrices))


def _rows_each(batch: int, tile: int) -> int:
    wanted = min(ROWS_TILE // tile, batch // MANY_PROGRAMS)
    return 1 << (wanted.bit_length() - 1) if wanted > 1 else 1


def _warps(numbers: int) -> int:
    """8 numbers a thread, 16 in the largest tile."""
    return min(16, max(1, numbers // 256))
