"""Gram matrices over the batch, for the SP loss, without copies of the features.

``amd_fused::sp_gram_fwd`` returns ``x @ x.T`` for ``x = a.flatten(1)``, ``amd_fused::sp_gram_bwd``
the gradient of a. What eager PyTorch does beside the two GEMMs is left out: the copy that flattens
a channels_last tensor, the float32 copy of half precision, the second GEMM of the gradient and the
buffers that are added up after it.

On a CPU the products are the C++ kernels', where they can run: half of a Gram matrix, for the rest
is the same again, and half precision is widened in the caches. A GEMM with as many columns as
samples is slower than the reading of the features. Elsewhere they are torch's GEMMs, and half
precision is widened a chunk at a time (`_CHUNK`). torch.mm(..., out_dtype=torch.float32) would need
no widening, but exists on CUDA alone and for the forward pass alone; the GEMM's time is the reading
of its operand either way (measured on CPU: chunks are as fast as one GEMM or faster).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.gradients import by_input
from amd_fused.losses.sp import reference

# Elements of a chunk, 4 or 16 MiB of float32: little beside the features, and few operations.
_CHUNK = {"cpu": 1 << 20}
_CHUNK_ELSEWHERE = 1 << 22

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")
_LIBRARY.define("sp_gram_fwd(Tensor features, bool double) -> Tensor")
_LIBRARY.define("sp_gram_bwd(Tensor grad_gram, Tensor features) -> Tensor")
# Implemented by csrc/cpu/rows/sp.cpp. rows, out: [B, K], any strides; factors: [B, B], contiguous.
_LIBRARY.define("sp_gram_cpp(Tensor rows, bool in_double) -> Tensor")  # rows @ rows.T
_LIBRARY.define("sp_mix_cpp(Tensor factors, Tensor rows, Tensor(a!) out) -> ()")  # factors @ rows
# Implemented by csrc/cpu/rows/sp_distance.cpp. The distance of two Gram matrices [B, B], and for
# each that wants one its gradient.
_LIBRARY.define(
    "sp_distance_cpp(Tensor gram_s, Tensor gram_t, float norm_p, bool[] needs_grad) "
    "-> (Tensor, Tensor[])"
)


def distance(a_s: Tensor, a_t: Tensor, norm_p: float, double: bool) -> Tensor:
    """The SP loss of one layer pair, 0-d, differentiable any number of times.

    Args:
        a_s, a_t: [B, ...], any strides, any floating dtype.
        norm_p: as of :func:`amd_fused.sp_loss`.
        double: in float64, else in float32.
    """
    if not _kernels(a_s):
        # [B, B] is little beside [B, C H W]: no kernel for what follows the GEMMs.
        return reference.similarity_distance(gram(a_s, double), gram(a_t, double), norm_p)
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in (a_s, a_t)]
    return _Distance.apply(needs_grad, norm_p, double, a_s, a_t)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, needs_grad: list[bool], norm_p: float, double: bool, a_s: Tensor, a_t: Tensor
    ) -> Tensor:
        operators = torch.ops.amd_fused
        grams = [operators.sp_gram_fwd.default(a, double) for a in (a_s, a_t)]
        loss, slopes = operators.sp_distance_cpp.default(*grams, norm_p, needs_grad)
        wanted = [a for a, needed in zip((a_s, a_t), needs_grad, strict=True) if needed]
        ctx.save_for_backward(*grams, *slopes, *wanted)
        ctx.needs_grad, ctx.norm_p, ctx.double = needs_grad, norm_p, double
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        gram_s, gram_t, *rest = ctx.saved_tensors
        slopes, wanted = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The gradient is to be differentiated again: in operations that can be. Views, for
            # student and teacher may be one tensor.
            views = [a.view_as(a) for a in wanted]
            again = by_input([gram(a, ctx.double) for a in views], ctx.needs_grad)
            grams = [
                g if new is None else new for g, new in zip((gram_s, gram_t), again, strict=True)
            ]
            loss = reference.similarity_distance(*grams, ctx.norm_p)
            found = list(torch.autograd.grad(loss, views, grad_loss, create_graph=True))
        else:
            backward = torch.ops.amd_fused.sp_gram_bwd.default
            found = [backward(grad_loss * g, a) for g, a in zip(slopes, wanted, strict=True)]
        return None, None, None, *by_input(found, ctx.needs_grad)


def gram(features: Tensor, double: bool) -> Tensor:
    """Inner products of every two samples, ``x @ x.T`` with ``x = features.flatten(1)``.

    Args:
        features: [B, ...], any strides, any floating dtype.
        double: in float64, else in float32.

    Returns:
        [B, B], differentiable any number of times.
    """
    return _Gram.apply(features, double)


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, double: bool) -> Tensor:
        ctx.save_for_backward(features)
        return torch.ops.amd_fused.sp_gram_fwd.default(features, double)

    @staticmethod
    def backward(ctx: Any, grad_gram: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The gradient is to be differentiated again: in operations that can be.
            x = features.to(grad_gram.dtype).flatten(1)
            grad = (grad_gram + grad_gram.T) @ x
            return grad.view(features.shape).to(features.dtype), None
        return torch.ops.amd_fused.sp_gram_bwd.default(grad_gram, features), None


def _gram_fwd(features: Tensor, double: bool) -> Tensor:
    dtype = torch.float64 if double else torch.float32
    x = _by_stride(features)
    kernels = _kernels(x)
    # Without autocast, which would narrow the operands.
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor | None = None
        for columns in _chunks(x, copied=not kernels and x.dtype != dtype):
            part = x[columns].reshape(x.shape[0], -1)
            if kernels:
                found = torch.ops.amd_fused.sp_gram_cpp.default(part, double)
                result = found if result is None else result.add_(found)
            else:
                part = part.to(dtype)
                result = part @ part.T if result is None else result.addmm_(part, part.T)
    assert result is not None
    return result


def _gram_bwd(grad_gram: Tensor, features: Tensor) -> Tensor:
    dtype = grad_gram.dtype
    grad = torch.empty_like(features)
    order = _order(features)
    x, grad_x = features.permute(order), grad.permute(order)
    if _is_matrix(x) and _is_matrix(grad_x):
        x, grad_x = x.flatten(1), grad_x.flatten(1)
    kernels = _kernels(x)
    # d<G, x x^T> = <(G + G^T) x, dx>: one GEMM.
    symmetric = grad_gram + grad_gram.T
    with torch.autocast(features.device.type, enabled=False):
        for columns in _chunks(x, copied=not kernels and x.dtype != dtype):
            source, target = x[columns], grad_x[columns]
            part = source.reshape(x.shape[0], -1)
            if kernels:
                mixed = target if target.ndim == 2 else torch.empty_like(part)
                torch.ops.amd_fused.sp_mix_cpp.default(symmetric, part, mixed)
            elif target.ndim == 2 and source.dtype == dtype:
                mixed = torch.mm(symmetric, part, out=target)
            else:
                mixed = symmetric @ part.to(dtype)
            if mixed is not target:
                target.copy_(mixed.view(source.shape))
    return grad


def _kernels(x: Tensor) -> bool:
    """Whether the C++ kernels run; the products have no others."""
    if x.device.type != "cpu":
        return False
    return _backends.choose("sp_loss", "auto", "cpu", KERNELS["sp"]) == "cpp"


def _by_stride(features: Tensor) -> Tensor:
    """The features as a view [B, K] where strides allow it, else with axes in order of memory.

    The order of the columns means nothing to a Gram matrix, so that of the memory will do:
    channels_last and other dense layouts need no copy.
    """
    x = features.permute(_order(features))
    return x.flatten(1) if _is_matrix(x) else x


def _order(features: Tensor) -> list[int]:
    """The batch axis, then the others from the slowest to the fastest."""
    axes = range(1, features.ndim)
    return [0, *sorted(axes, key=lambda axis: features.stride(axis), reverse=True)]


def _is_matrix(x: Tensor) -> bool:
    """Whether flatten(1) is a view."""
    axes = [(n, s) for n, s in zip(x.shape[1:], x.stride()[1:], strict=True) if n > 1]
    return all(s == m * t for (_, s), (m, t) in pairwise(axes))


def _chunks(x: Tensor, copied: bool) -> Iterator[tuple[slice, slice]]:
    """Slices of axis 1: everything at once where nothing is copied, else `_CHUNK` elements."""
    length = x.shape[1]
    if x.ndim == 2 and not copied:
        step = length
    else:
        budget = _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE)
        step = max(1, budget * length // x.numel())
    for start in range(0, length, step):
        yield slice(None), slice(start, start + step)


def _gram_fwd_fake(features: Tensor, double: bool) -> Tensor:
    batch = features.shape[0]
    return features.new_empty(batch, batch, dtype=torch.float64 if double else torch.float32)


def _gram_bwd_fake(grad_gram: Tensor, features: Tensor) -> Tensor:
    return torch.empty_like(features)


def _distance_fake(
    gram_s: Tensor, gram_t: Tensor, norm_p: float, needs_grad: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    grams = zip((gram_s, gram_t), needs_grad, strict=True)
    return gram_s.new_empty(()), [torch.empty_like(g) for g, needed in grams if needed]


_LIBRARY.impl("sp_gram_fwd", _gram_fwd, "CompositeExplicitAutograd")
_LIBRARY.impl("sp_gram_bwd", _gram_bwd, "CompositeExplicitAutograd")
torch.library.register_fake("amd_fused::sp_gram_fwd", _gram_fwd_fake, lib=_LIBRARY)
torch.library.register_fake("amd_fused::sp_gram_bwd", _gram_bwd_fake, lib=_LIBRARY)
torch.library.register_fake("amd_fused::sp_distance_cpp", _distance_fake, lib=_LIBRARY)
