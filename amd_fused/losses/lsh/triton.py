"""Triton kernel of the LSH loss: the hashes' cross-entropy and its gradient.

Bytes for [R, H] hash values: both sides read, the gradient written over the student's. One launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.triton import series
from amd_fused.losses._common.triton.launch import Launch, Submit, block, on_device, run_all


@triton.jit
def lsh_bce_kernel(
    hash_s,  # [R, H] in the compute dtype, contiguous: W s; becomes the gradient if NEEDS_GRAD
    hash_t,  # [R, H] likewise: W t
    bias,  # [H] in the compute dtype, or None
    sums,  # [programs] in the compute dtype
    hashes,  # H
    NEEDS_GRAD: tl.constexpr,
    ATANH: tl.constexpr,  # series.ATANH_32 or ATANH_64
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(hashes, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    h = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = h < hashes
    x = tl.load(hash_s + row * hashes + h, mask=mask, other=0.0)
    of_t = tl.load(hash_t + row * hashes + h, mask=mask, other=0.0)
    if bias is not None:
        b = tl.load(bias + h, mask=mask, other=0.0)
        x += b
        of_t += b
    # A hash of NaN or Inf is neither side of its hyperplane: it must reach loss and gradient.
    invalid = (x - x) + (of_t - of_t)
    # The cross-entropy of a side is -log sigmoid(z), z = +x on the positive side and -x elsewhere.
    z = tl.where(of_t > 0, x, -x)
    # derived: -log sigmoid(z) = max(-z, 0) + log1p(e), e = exp(-|z|), and log1p(e) =
    # 2 atanh(e / (2 + e)), which keeps its digits where e is small.
    e = tl.exp(-tl.abs(z))
    w = e / (2 + e)
    square = w * w
    series = tl.zeros_like(square) + ATANH[len(ATANH) - 1]
    for k in tl.static_range(len(ATANH) - 2, -1, -1):
        series = series * square + ATANH[k]
    value = tl.where(z > 0, 0.0, -z) + 2 * w * series + invalid
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(mask, value, 0.0)))
    if NEEDS_GRAD:
        # sigmoid(x) - side
        slope = tl.where(z > 0, e, 1.0) / (1 + e)
        gradient = tl.where(of_t > 0, -slope, slope) + invalid
        tl.store(hash_s + row * hashes + h, gradient, mask=mask)


def lsh_bce_triton(
    hash_s: Tensor,
    hash_t: Tensor,
    bias: Tensor | None,
    needs_grad: bool,
    submit: Submit = run_all,
) -> Tensor:
    """The kernel of losses/lsh/operator.py: partial sums, and the gradient in place of hash_s."""
    rows, hashes = hash_s.shape
    programs = rows * triton.cdiv(hashes, block(hashes))
    sums = hash_s.new_empty(programs)
    atanh = series.ATANH_64 if hash_s.dtype == torch.float64 else series.ATANH_32
    launch = Launch(
        lsh_bce_kernel,
        programs,
        (hash_s, hash_t, bias, sums, hashes),
        {"NEEDS_GRAD": needs_grad, "ATANH": atanh, "BLOCK": block(hashes)},
    )
    with on_device(hash_s.device):
        submit([launch])
    return sums
