"""Gram matrices over the batch, for the SP loss: torch's GEMMs without copies of the features.

``amd_fused::sp_gram_fwd`` returns ``x @ x.T`` for ``x = a.flatten(1)``, ``amd_fused::sp_gram_bwd``
the gradient of a. One implementation for every device. What eager PyTorch does beside the two
GEMMs is left out: the copy that flattens a channels_last tensor, the float32 copy of half
precision, the second GEMM of the gradient and the buffers that are added up after it.

Half precision is widened a chunk at a time (`_CHUNK`). torch.mm(..., out_dtype=torch.float32)
would need no widening, but exists on CUDA alone and for the forward pass alone; the GEMM's time is
the reading of its operand either way (measured on CPU: chunks are as fast as one GEMM or faster).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Elements of a chunk, 4 or 16 MiB of float32: little beside the features, and few operations.
_CHUNK = {"cpu": 1 << 20}
_CHUNK_ELSEWHERE = 1 << 22

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")
_LIBRARY.define("sp_gram_fwd(Tensor features, bool double) -> Tensor")
_LIBRARY.define("sp_gram_bwd(Tensor grad_gram, Tensor features) -> Tensor")


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
    # Without autocast, which would narrow the operands.
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor | None = None
        for columns in _chunks(x, dtype):
            part = x[columns].reshape(x.shape[0], -1).to(dtype)
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
    # d<G, x x^T> = <(G + G^T) x, dx>: one GEMM.
    symmetric = grad_gram + grad_gram.T
    with torch.autocast(features.device.type, enabled=False):
        for columns in _chunks(x, dtype):
            source, target = x[columns], grad_x[columns]
            if source.ndim == 2 and source.dtype == dtype:
                torch.mm(symmetric, source, out=target)
            else:
                part = source.reshape(x.shape[0], -1).to(dtype)
                target.copy_((symmetric @ part).view(source.shape))
    return grad


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


def _chunks(x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, slice]]:
    """Slices of axis 1: everything at once where nothing is copied, else `_CHUNK` elements."""
    length = x.shape[1]
    if x.ndim == 2 and x.dtype == dtype:
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


_LIBRARY.impl("sp_gram_fwd", _gram_fwd, "CompositeExplicitAutograd")
_LIBRARY.impl("sp_gram_bwd", _gram_bwd, "CompositeExplicitAutograd")
torch.library.register_fake("amd_fused::sp_gram_fwd", _gram_fwd_fake, lib=_LIBRARY)
torch.library.register_fake("amd_fused::sp_gram_bwd", _gram_bwd_fake, lib=_LIBRARY)
