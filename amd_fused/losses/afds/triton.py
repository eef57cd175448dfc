"""Triton kernels of the AFDS loss, and of VID's: one program a block of channels of a sample.

Forward, a program goes through its channels twice, for their norms and for the distance of what
they make of them: the second time they lie in a cache. VID's distance has no norms. Bytes for
[B, C, H, W] features, forward: student and teacher read, five numbers a channel written. Backward:
both read, each wanted gradient written. One launch each way. Any strides: the threads follow
whichever of positions and channels is dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.triton.launch import Launch, Submit, on_device, run_all
from amd_fused.losses._common.triton.maps import offsets, strides, tile_of


@triton.jit
def afds_fwd_kernel(
    student,  # [B, C, H, W], any strides and dtype
    teacher,  # [B, C, H, W], any strides and dtype
    distance,  # [B, C] in the compute dtype
    numbers,  # [B, C, 4] in the compute dtype
    channels,  # C
    positions,  # H W
    width,  # W
    eps_high,  # the two add up to eps
    eps_low,
    stride_sb,
    stride_sc,
    stride_sh,
    stride_sw,
    stride_tb,
    stride_tc,
    stride_th,
    stride_tw,
    FLAT_S: tl.constexpr,
    FLAT_T: tl.constexpr,
    NORMALISES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_C)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = c < channels
    c = c.to(tl.int64)
    dtype = distance.dtype.element_ty
    rows_s = student + b * stride_sb + c[:, None] * stride_sc
    rows_t = teacher + b * stride_tb + c[:, None] * stride_tc
    norm_s = tl.zeros([BLOCK_C], dtype)
    norm_t = tl.zeros([BLOCK_C], dtype)
    inverse_s = tl.full([BLOCK_C], 1.0, dtype)
    inverse_t = tl.full([BLOCK_C], 1.0, dtype)
    if NORMALISES:
        first = tl.zeros([BLOCK_C, BLOCK_N], dtype)
        second = tl.zeros([BLOCK_C, BLOCK_N], dtype)
        for begin in range(0, positions, BLOCK_N):
            n = begin + tl.arange(0, BLOCK_N)[None, :]
            mask = valid[:, None] & (n < positions)
            at_s = rows_s + offsets(n, width, stride_sh, stride_sw, FLAT_S)
            at_t = rows_t + offsets(n, width, stride_th, stride_tw, FLAT_T)
            s = tl.load(at_s, mask=mask, other=0.0).to(dtype)
            t = tl.load(at_t, mask=mask, other=0.0).to(dtype)
            first += s * s
            second += t * t
        norm_s = _norm(tl.sum(first, 1))
        norm_t = _norm(tl.sum(second, 1))
        inverse_s = _over(1.0, norm_s, eps_high, eps_low)
        inverse_t = _over(1.0, norm_t, eps_high, eps_low)
    first = tl.zeros([BLOCK_C, BLOCK_N], dtype)
    second = tl.zeros([BLOCK_C, BLOCK_N], dtype)
    for begin in range(0, positions, BLOCK_N):
        n = begin + tl.arange(0, BLOCK_N)[None, :]
        mask = valid[:, None] & (n < positions)
        at_s = rows_s + offsets(n, width, stride_sh, stride_sw, FLAT_S)
        at_t = rows_t + offsets(n, width, stride_th, stride_tw, FLAT_T)
        x = tl.load(at_s, mask=mask, other=0.0).to(dtype) * inverse_s[:, None]
        y = tl.load(at_t, mask=mask, other=0.0).to(dtype) * inverse_t[:, None]
        first += (x - y) * (x - y)
        second += (x - y) * x
    squares = tl.sum(first, 1)
    own = tl.sum(second, 1)
    at = b * channels + c
    tl.store(distance + at, squares / positions, mask=valid)
    tl.store(numbers + at * 4, inverse_s, mask=valid)
    tl.store(numbers + at * 4 + 1, inverse_t, mask=valid)
    tl.store(numbers + at * 4 + 2, _over(own, norm_s, 0.0, 0.0), mask=valid)
    # derived: (y - x).y = |x - y|^2 - (x - y).x.
    tl.store(numbers + at * 4 + 3, _over(squares - own, norm_t, 0.0, 0.0), mask=valid)


@triton.jit
def _norm(square):
    """Of a sum of squares; Inf becomes NaN, which is heard."""
    norm = tl.sqrt(square)
    return tl.where(norm == float("inf"), float("nan"), norm)


@triton.jit
def _over(x, norm, eps_high, eps_low):
    """x / (norm + eps); 0 for a norm of 0: a channel of zeros has no direction."""
    zero = norm == 0
    return tl.where(zero, 0.0, x / tl.where(zero, 1.0, norm + eps_high + eps_low))


@triton.jit
def afds_bwd_kernel(
    grad_distance,  # [B, C] in the compute dtype, any strides
    student,  # [B, C, H, W], any strides and dtype
    teacher,  # [B, C, H, W], any strides and dtype
    numbers,  # [B, C, 4] in the compute dtype
    grad_s,  # [B, C, H, W], strides of its own, dtype of the student
    grad_t,  # [B, C, H, W], strides of its own, dtype of the teacher
    channels,  # C
    positions,  # H W
    width,  # W
    stride_gb,
    stride_gc,
    stride_sb,
    stride_sc,
    stride_sh,
    stride_sw,
    stride_tb,
    stride_tc,
    stride_th,
    stride_tw,
    stride_gsb,
    stride_gsc,
    stride_gsh,
    stride_gsw,
    stride_gtb,
    stride_gtc,
    stride_gth,
    stride_gtw,
    FLAT_S: tl.constexpr,
    FLAT_T: tl.constexpr,
    FLAT_GS: tl.constexpr,
    FLAT_GT: tl.constexpr,
    NEEDS_S: tl.constexpr,
    NEEDS_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(positions, BLOCK_N)
    blocks = tl.cdiv(channels, BLOCK_C)
    unit = tl.program_id(0) // tiles
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    b = (unit // blocks).to(tl.int64)
    c = (unit % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = c < channels
    mask = valid[:, None] & (n < positions)
    c = c.to(tl.int64)
    dtype = numbers.dtype.element_ty
    row = numbers + (b * channels + c) * 4
    inverse_s = tl.load(row, mask=valid, other=0.0)[:, None]
    inverse_t = tl.load(row + 1, mask=valid, other=0.0)[:, None]
    upstream = tl.load(grad_distance + b * stride_gb + c * stride_gc, mask=valid, other=0.0)
    # derived: of mean (x - y)^2 over positions, x = s / (norm + eps).
    scale = (upstream * 2 / positions)[:, None]
    at_s = b * stride_sb + c[:, None] * stride_sc + offsets(n, width, stride_sh, stride_sw, FLAT_S)
    at_t = b * stride_tb + c[:, None] * stride_tc + offsets(n, width, stride_th, stride_tw, FLAT_T)
    x = tl.load(student + at_s, mask=mask, other=0.0).to(dtype) * inverse_s
    y = tl.load(teacher + at_t, mask=mask, other=0.0).to(dtype) * inverse_t
    if NEEDS_S:
        own = tl.load(row + 2, mask=valid, other=0.0)[:, None]
        value = (x - y) * (scale * inverse_s) - x * (scale * own)
        at = b * stride_gsb + c[:, None] * stride_gsc
        at += offsets(n, width, stride_gsh, stride_gsw, FLAT_GS)
        tl.store(grad_s + at, value, mask=mask)
    if NEEDS_T:
        own = tl.load(row + 3, mask=valid, other=0.0)[:, None]
        value = (y - x) * (scale * inverse_t) - y * (scale * own)
        at = b * stride_gtb + c[:, None] * stride_gtc
        at += offsets(n, width, stride_gth, stride_gtw, FLAT_GT)
        tl.store(grad_t + at, value, mask=mask)


def afds_fwd_triton(
    student: Tensor, teacher: Tensor, eps: float | None, submit: Submit = run_all
) -> tuple[Tensor, Tensor]:
    """The operator `afds_fwd` of amd_fused/losses/afds/operator.py."""
    batch, channels, height, width = student.shape
    dtype = compute_dtype([student, teacher])
    distance = student.new_empty(batch, channels, dtype=dtype)
    numbers = student.new_empty(batch, channels, 4, dtype=dtype)
    block_c, block_n = tile_of(student, dtype)
    # Triton takes a Python number as float32: a second one has the digits that float64 keeps.
    # Beyond the range of float32 every channel is as good as 0.
    normalises = eps is not None
    eps = min(eps or 0.0, torch.finfo(torch.float32).max)
    eps_high = float(torch.tensor(eps, dtype=torch.float32))
    (flat_s, *strides_s), (flat_t, *strides_t) = strides(student), strides(teacher)
    launch = Launch(
        afds_fwd_kernel,
        batch * triton.cdiv(channels, block_c),
        (
            student, teacher, distance, numbers, channels, height * width, width,
            eps_high, eps - eps_high, *strides_s, *strides_t,
        ),
        {
            "FLAT_S": flat_s,
            "FLAT_T": flat_t,
            "NORMALISES": normalises,
            "BLOCK_C": block_c,
            "BLOCK_N": block_n,
        },
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return distance, numbers


def afds_bwd_triton(
    grad_distance: Tensor,
    student: Tensor,
    teacher: Tensor,
    numbers: Tensor,
    needs_grad: Sequence[bool],
    submit: Submit = run_all,
) -> list[Tensor]:
    """The operator `afds_bwd` of amd_fused/losses/afds/operator.py."""
    batch, channels, height, width = student.shape
    inputs = (student, teacher)
    grads = [torch.empty_like(a) for a, needed in zip(inputs, needs_grad, strict=True) if needed]
    # The kernel does not touch the gradient that nobody wants: any tensor stands for it.
    maps = (student, teacher, grads[0], grads[-1])
    block_c, block_n = tile_of(student, numbers.dtype)
    described = [strides(a) for a in maps]
    flat = {
        name: found[0]
        for name, found in zip(("FLAT_S", "FLAT_T", "FLAT_GS", "FLAT_GT"), described, strict=True)
    }
    programs = batch * triton.cdiv(channels, block_c) * triton.cdiv(height * width, block_n)
    launch = Launch(
        afds_bwd_kernel,
        programs,
        (
            grad_distance, student, teacher, numbers, *maps[2:], channels, height * width, width,
            *grad_distance.stride(), *(stride for found in described for stride in found[1:]),
        ),
        {
            **flat,
            "NEEDS_S": needs_grad[0],
            "NEEDS_T": needs_grad[1],
            "BLOCK_C": block_c,
            "BLOCK_N": block_n,
        },
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return grads
