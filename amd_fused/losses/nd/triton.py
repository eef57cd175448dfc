"""Triton kernels of the ND loss: one program a sample forward, one a block of a sample backward.

Bytes for [B, D] embeddings, forward: student, teacher and one class mean a sample read, four
numbers a sample written. Backward, for each side that wants a gradient: the side read (with the
class means for the student), its gradient written. One launch each way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.triton.launch import Launch, Submit, block, on_device, run_all


@triton.jit
def nd_fwd_kernel(
    student,  # [B, D], any strides and dtype
    teacher,  # [B, D], any strides and dtype
    target,  # [B] int64, any stride
    class_means,  # [K, D], any strides and dtype
    loss,  # [B] in the compute dtype
    slopes,  # [B, 3] in the compute dtype
    width,  # D
    classes,  # K
    stride_sb,
    stride_sd,
    stride_tb,
    stride_td,
    stride_y,
    stride_mk,
    stride_md,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    label = tl.load(target + b * stride_y)
    known = (label >= 0) & (label < classes)
    row_s = student + b * stride_sb
    row_t = teacher + b * stride_tb
    row_m = class_means + tl.where(known, label, 0) * stride_mk
    dtype = loss.dtype.element_ty
    ss = tl.zeros([BLOCK], dtype)
    tt = tl.zeros([BLOCK], dtype)
    mm = tl.zeros([BLOCK], dtype)
    sm = tl.zeros([BLOCK], dtype)
    for first in range(0, width, BLOCK):
        d = first + tl.arange(0, BLOCK)
        mask = d < width
        d = d.to(tl.int64)
        s = tl.load(row_s + d * stride_sd, mask=mask, other=0.0).to(dtype)
        t = tl.load(row_t + d * stride_td, mask=mask, other=0.0).to(dtype)
        m = tl.load(row_m + d * stride_md, mask=mask, other=0.0).to(dtype)
        ss += s * s
        tt += t * t
        mm += m * m
        sm += s * m
    norm_s = _norm(tl.sum(ss))
    norm_t = _norm(tl.sum(tt))
    norm_m = _norm(tl.sum(mm))
    students = (norm_s >= norm_t) | (norm_s != norm_s)  # a tie is the student's; NaN stays NaN
    longer = tl.where(students, norm_s, norm_t)
    per_longer = _inverse(longer)
    per_mean = _inverse(norm_m)
    cosine = tl.sum(sm) * per_mean * per_longer
    # derived: of 1 - s.e / max(|s|, |t|) by s and t, as multiples of the mean, of s and of t.
    own = cosine * per_longer * per_longer
    row = slopes + b * 3
    tl.store(loss + b, tl.where(known, 1 - cosine, 0.0))
    tl.store(row, tl.where(known, -per_mean * per_longer, 0.0))
    tl.store(row + 1, tl.where(known & students, own, 0.0))
    tl.store(row + 2, tl.where(known & (students == 0), own, 0.0))


@triton.jit
def _norm(square):
    """Of a sum of squares; Inf becomes NaN, which is heard."""
    norm = tl.sqrt(square)
    return tl.where(norm == float("inf"), float("nan"), norm)


@triton.jit
def _inverse(norm):
    """1 / norm; 0 for 0."""
    return tl.where(norm == 0, 0.0, 1 / tl.where(norm == 0, 1.0, norm))


@triton.jit
def nd_bwd_kernel(
    grad_loss,  # [B] in the compute dtype, any stride
    student,  # [B, D], any strides and dtype
    teacher,  # [B, D], any strides and dtype
    target,  # [B] int64, any stride
    class_means,  # [K, D], any strides and dtype
    slopes,  # [B, 3] in the compute dtype
    grad_s,  # [B, D], strides of its own, dtype of the student
    grad_t,  # [B, D], strides of its own, dtype of the teacher
    width,  # D
    classes,  # K
    stride_g,
    stride_sb,
    stride_sd,
    stride_tb,
    stride_td,
    stride_y,
    stride_mk,
    stride_md,
    stride_gsb,
    stride_gsd,
    stride_gtb,
    stride_gtd,
    NEEDS_S: tl.constexpr,
    NEEDS_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(width, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = d < width
    d = d.to(tl.int64)
    dtype = slopes.dtype.element_ty
    label = tl.load(target + b * stride_y)
    # A label without a class mean has no gradient, whatever the embeddings hold.
    known = (label >= 0) & (label < classes)
    upstream = tl.load(grad_loss + b * stride_g)
    if NEEDS_S:
        by_mean = tl.load(slopes + b * 3) * upstream
        by_own = tl.load(slopes + b * 3 + 1) * upstream
        row_m = class_means + tl.where(known, label, 0) * stride_mk
        s = tl.load(student + b * stride_sb + d * stride_sd, mask=mask, other=0.0).to(dtype)
        m = tl.load(row_m + d * stride_md, mask=mask, other=0.0).to(dtype)
        value = tl.where(known, by_mean * m + by_own * s, 0.0)
        tl.store(grad_s + b * stride_gsb + d * stride_gsd, value, mask=mask)
    if NEEDS_T:
        by_own = tl.load(slopes + b * 3 + 2) * upstream
        t = tl.load(teacher + b * stride_tb + d * stride_td, mask=mask, other=0.0).to(dtype)
        value = tl.where(known, by_own * t, 0.0)
        tl.store(grad_t + b * stride_gtb + d * stride_gtd, value, mask=mask)


def nd_fwd_triton(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    class_means: Tensor,
    submit: Submit = run_all,
) -> tuple[Tensor, Tensor]:
    """The operator `nd_fwd` of amd_fused/losses/nd/operator.py."""
    (batch, width), classes = student.shape, class_means.shape[0]
    dtype = compute_dtype([student, teacher])
    loss = student.new_empty(batch, dtype=dtype)
    slopes = student.new_empty(batch, 3, dtype=dtype)
    launch = Launch(
        nd_fwd_kernel,
        batch,
        (
            student, teacher, target, class_means, loss, slopes, width, classes,
            *student.stride(), *teacher.stride(), *target.stride(), *class_means.stride(),
        ),
        {"BLOCK": block(width)},
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return loss, slopes


def nd_bwd_triton(
    grad_loss: Tensor,
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    class_means: Tensor,
    slopes: Tensor,
    needs_grad: Sequence[bool],
    submit: Submit = run_all,
) -> list[Tensor]:
    """The operator `nd_bwd` of amd_fused/losses/nd/operator.py."""
    batch, width = student.shape
    inputs = (student, teacher)
    grads = [torch.empty_like(a) for a, needed in zip(inputs, needs_grad, strict=True) if needed]
    # The kernel does not touch the gradient that nobody wants: any tensor stands for it.
    grad_s, grad_t = grads[0], grads[-1]
    launch = Launch(
        nd_bwd_kernel,
        batch * triton.cdiv(width, block(width)),
        (
            grad_loss, student, teacher, target, class_means, slopes, grad_s, grad_t, width,
            class_means.shape[0], *grad_loss.stride(), *student.stride(), *teacher.stride(),
            *target.stride(), *class_means.stride(), *grad_s.stride(), *grad_t.stride(),
        ),
        {"NEEDS_S": needs_grad[0], "NEEDS_T": needs_grad[1], "BLOCK": block(width)},
    )  # fmt: skip
    with on_device(student.device):
        submit([launch])
    return grads
