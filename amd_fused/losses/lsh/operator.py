"""Operators of the LSH loss: the matrix products are torch's, a few rows of the batch at a time.

``amd_fused::lsh_fwd_<backend>`` returns the loss and, for every input that wants one, its gradient
at an upstream gradient of 1: all that must be known for it is known in the forward pass, and hash
values [B, H] are never held for a backward pass. The backends differ in the kernel of the
cross-entropy only: value and gradient in one pass over two products. Kinds "l2" and "l1" need one
product, W (s - t), and its norm: torch's, for beside the product a kernel would save nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.gradients import by_input, scaled
from amd_fused.losses._common.numbers import as_tensor
from amd_fused.losses._common.registration import define, imported
from amd_fused.losses._common.second_order import once_differentiable

# Hash values held at once: large enough for matrix products at full speed.
HASH_BYTES = 64 << 20
# Fewer rows than this would read the whole of W for next to nothing.
LEAST_ROWS = 64

_FWD_SCHEMA = (
    "(Tensor student, Tensor teacher, Tensor weight, Tensor? bias, str kind, Tensor numbers, "
    "bool[] needs_grad) -> (Tensor, Tensor[])"  # numbers: [1] float64 on the CPU, l2_weight
)
# hash_s, hash_t [R, H] in the compute dtype, contiguous; bias [H] or None. Returns partial sums of
# the cross-entropy, of any shape; with needs_grad, hash_s becomes the gradient of their sum by it.
_BCE_SCHEMA = "(Tensor(a!) hash_s, Tensor hash_t, Tensor? bias, bool needs_grad) -> Tensor"

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def lsh_fwd(
    backend: str,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kind: str,
    l2_weight: float,
) -> Tensor:
    """The LSH loss, 0-d, by one backend's operators, differentiable once.

    Arguments as :func:`amd_fused.lsh_loss`, checked.
    """
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in (student, teacher)]
    numbers = as_tensor(l2_weight)
    if not any(needs_grad):
        operator = _operator(backend)
        return operator(student, teacher, weight, bias, kind, numbers, needs_grad)[0]
    return _LSH.apply(backend, needs_grad, student, teacher, weight, bias, kind, numbers)


class _LSH(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: str,
        needs_grad: list[bool],
        student: Tensor,
        teacher: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        kind: str,
        numbers: Tensor,
    ) -> Tensor:
        operator = _operator(backend)
        loss, slopes = operator(student, teacher, weight, bias, kind, numbers, needs_grad)
        wanted = [a for a, needed in zip((student, teacher), needs_grad, strict=True) if needed]
        # The inputs only so that a second derivative by them is noticed.
        ctx.save_for_backward(*slopes, *wanted)
        ctx.backend, ctx.needs_grad = backend, needs_grad
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        grads = once_differentiable("lsh_loss", ctx.backend, scaled, grad_loss, *ctx.saved_tensors)
        return None, None, *by_input(grads, ctx.needs_grad), None, None, None, None


def _operator(backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"lsh_fwd_{backend}").default


def chunk_rows(hashes: int, dtype: torch.dtype) -> int:
    """Rows of the batch whose hash values, two matrices of them, are held at once."""
    return max(LEAST_ROWS, HASH_BYTES // (2 * hashes * dtype.itemsize))


def _lsh_fwd(
    bce: Callable[[Tensor, Tensor, Tensor | None, bool], Tensor],
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kind: str,
    numbers: Tensor,
    needs_grad: Sequence[bool],
) -> tuple[Tensor, list[Tensor]]:
    l2_weight = numbers.item()
    dtype = compute_dtype([student, teacher])
    (batch, width), hashes = student.shape, weight.shape[0]
    w, b = weight.to(dtype), None if bias is None else bias.to(dtype).contiguous()
    # The teacher has a slope of its own in the cross-entropy, the student's negative elsewhere.
    needs_slope = needs_grad[0] or (kind != "bce" and any(needs_grad))
    slope_s = student.new_empty(batch if needs_slope else 0, width, dtype=dtype)
    slope_t = student.new_empty(batch if needs_grad[1] else 0, width, dtype=dtype)
    per_hash, per_number = 1 / (batch * hashes), 1 / (batch * width)
    loss = student.new_zeros((), dtype=dtype)
    step = min(batch, chunk_rows(hashes, dtype))
    products = student.new_empty(1 + (kind == "bce"), step, hashes, dtype=dtype)
    # An operator's implementation is still under its caller's autocast.
    with without_autocast(student.device.type):
        for first in range(0, batch, step):
            rows = slice(first, min(first + step, batch))
            s, t = student[rows].to(dtype), teacher[rows].to(dtype)
            difference = s - t
            if l2_weight:
                loss += l2_weight * per_number * torch.linalg.vector_norm(difference).square()
            of_s = products[0, : s.shape[0]]
            if kind == "bce":
                of_t = products[1, : s.shape[0]]
                torch.mm(s, w.T, out=of_s)
                torch.mm(t, w.T, out=of_t)
                loss += per_hash * bce(of_s, of_t, b, needs_slope).sum()
                scale = per_hash
            elif kind == "l2":
                torch.mm(difference, w.T, out=of_s)
                loss += per_hash * torch.linalg.vector_norm(of_s).square()
                scale = 2 * per_hash
            else:
                torch.mm(difference, w.T, out=of_s)
                loss += per_hash * torch.linalg.vector_norm(of_s, 1)
                scale = per_hash
                of_s = of_s.sign_() if needs_slope else of_s
            l2_scale = 2 * l2_weight * per_number
            if needs_slope:
                out = slope_s[rows]
                torch.addmm(difference, of_s, w, beta=l2_scale, alpha=scale, out=out)
            if needs_grad[1] and kind == "bce":
                torch.mul(difference, -l2_scale, out=slope_t[rows])
            elif needs_grad[1]:
                torch.neg(slope_s[rows], out=slope_t[rows])
    slopes = zip((slope_s, slope_t), needs_grad, strict=True)
    return loss, [slope for slope, needed in slopes if needed]


def _lsh_fwd_fake(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kind: str,
    numbers: Tensor,
    needs_grad: Sequence[bool],
) -> tuple[Tensor, list[Tensor]]:
    dtype = compute_dtype([student, teacher])
    slopes = [student.new_empty(student.shape, dtype=dtype) for needed in needs_grad if needed]
    return student.new_empty((), dtype=dtype), slopes


def _lsh_fwd_cpp(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return _lsh_fwd(torch.ops.amd_fused.lsh_bce_cpp.default, *args)


_BCE_TRITON = imported("amd_fused.losses.lsh.triton", "lsh_bce_triton")


def _lsh_fwd_triton(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return _lsh_fwd(_BCE_TRITON, *args)


_LIBRARY.define(f"lsh_bce_cpp{_BCE_SCHEMA}")  # implemented by csrc/cpu/rows/lsh.cpp
define(_LIBRARY, "lsh_fwd", _FWD_SCHEMA, _lsh_fwd_fake, KERNELS["lsh"], _lsh_fwd_triton)
_LIBRARY.impl("lsh_fwd_cpp", _lsh_fwd_cpp, "CPU")
