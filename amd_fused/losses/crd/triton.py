"""Triton kernel of the CRD loss: the rows of a sample's candidates, for scores and the gradient.

A program takes a stretch of one sample's candidates, a tile of rows at a time. Bytes for [B, 1 + K]
samples and [N, D] banks: of either side B K rows of D numbers and their indices read once, of which
a cache may hold some; a term and D numbers of the gradient written a stretch. One launch a side.
What is left to torch are the samples' own rows and the sums over stretches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.triton import series
from amd_fused.losses._common.triton.launch import Launch, Submit, on_device, run_all
from amd_fused.losses.crd import operator

# Candidates of a program, and numbers of rows that it holds at once: 32 a thread in float32.
STRETCH = 1024
_TILE = {torch.float32: 4096, torch.float64: 2048}


@triton.jit
def crd_fwd_kernel(
    anchors,  # [B, D] in the compute dtype, contiguous, divided by the temperature
    bank,  # [N, D], any strides and dtype
    samples,  # [B, 1 + K] int64 or int32, any strides
    log_h,  # 0-d in the compute dtype
    terms,  # [B, stretches] in the compute dtype
    slopes,  # [B, stretches, D] in the compute dtype
    rows,  # N
    negatives,  # K
    width,  # D
    stretches,
    stride_bn,
    stride_bd,
    stride_sb,
    stride_sk,
    NEEDS_GRAD: tl.constexpr,
    ATANH: tl.constexpr,  # series.ATANH_32 or ATANH_64
    STRETCH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    dtype = terms.dtype.element_ty
    b = (tl.program_id(0) // stretches).to(tl.int64)
    first = (tl.program_id(0) % stretches) * STRETCH
    d = tl.arange(0, BLOCK_D)
    inside = d < width
    anchor = tl.load(anchors + b * width + d, mask=inside, other=0.0)
    shift = tl.load(log_h)
    term = tl.zeros([BLOCK_K], dtype)
    slope = tl.zeros([BLOCK_D], dtype)
    for begin in range(first, first + STRETCH, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        drawn = k < negatives
        row = tl.load(
            samples + b * stride_sb + (1 + k.to(tl.int64)) * stride_sk, mask=drawn, other=0
        )
        row = row.to(tl.int64)
        known = (row >= 0) & (row < rows)
        at = row[:, None] * stride_bn + d[None, :].to(tl.int64) * stride_bd
        mask = (drawn & known)[:, None] & inside[None, :]
        tile = tl.load(bank + at, mask=mask, other=0.0).to(dtype)
        u = tl.sum(tile * anchor[None, :], 1) - shift
        # derived: softplus(u) = max(u, 0) + log1p(e), e = exp(-|u|), and log1p(e) =
        # 2 atanh(e / (2 + e)), which keeps its digits where e is small.
        e = tl.exp(-tl.abs(u))
        w = e / (2 + e)
        square = w * w
        series = tl.zeros_like(square) + ATANH[len(ATANH) - 1]
        for i in tl.static_range(len(ATANH) - 2, -1, -1):
            series = series * square + ATANH[i]
        value = tl.where(u > 0, u, 0.0) + 2 * w * series + (u - u)
        # A row that is not there is heard.
        value = tl.where(known, value, float("nan"))
        term += tl.where(drawn, value, 0.0)
        if NEEDS_GRAD:
            weight = tl.where(drawn, tl.where(u > 0, 1.0, e) / (1 + e), 0.0)
            slope += tl.sum(weight[:, None] * tile, 0)
    tl.store(terms + tl.program_id(0), tl.sum(term))
    if NEEDS_GRAD:
        tl.store(slopes + tl.program_id(0).to(tl.int64) * width + d, slope, mask=inside)


def crd_fwd_triton(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
    numbers: Tensor,
    needs_grad: Sequence[bool],
    submit: Submit = run_all,
) -> tuple[Tensor, list[Tensor]]:
    """The operator `crd_fwd` of amd_fused/losses/crd/operator.py."""
    temperature, eps = numbers.tolist()
    dtype = compute_dtype([student, teacher])
    (batch, width), (rows, _) = student.shape, student_bank.shape
    negatives = samples.shape[1] - 1
    log_h, constant = operator.shifts(log_normalizers, negatives / rows, eps, dtype)
    loss = student.new_full((), negatives * constant, dtype=dtype)
    stretches = triton.cdiv(negatives, STRETCH)
    block_d = triton.next_power_of_2(width)
    constants = {
        "ATANH": series.ATANH_64 if dtype == torch.float64 else series.ATANH_32,
        "STRETCH": STRETCH,
        "BLOCK_K": min(STRETCH, max(1, _TILE[dtype] // block_d)),
        "BLOCK_D": block_d,
    }
    found = []
    sides = zip((student, teacher), (teacher_bank, student_bank), log_h, needs_grad, strict=True)
    with without_autocast(student.device.type), on_device(student.device):
        for embedding, bank, shift, needed in sides:
            e = embedding.to(dtype)
            terms = e.new_empty(batch, stretches)
            slopes = e.new_empty(batch, stretches, width) if needed else terms
            launch = Launch(
                crd_fwd_kernel,
                batch * stretches,
                (
                    (e / temperature).contiguous(), bank, samples, shift, terms, slopes,
                    rows, negatives, width, stretches, *bank.stride(), *samples.stride(),
                ),
                {"NEEDS_GRAD": needed, **constants},
            )  # fmt: skip
            submit([launch])
            term, of_own = operator.own_terms(e, bank, samples, shift, temperature)
            loss = loss + term + terms.sum() / batch
            if needed:
                found.append((slopes.sum(1) - of_own) / (temperature * batch))
    return loss, found
