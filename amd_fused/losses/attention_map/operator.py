"""Operator of the attention map: one schema for every fused backend, fake kernel and autograd.

``amd_fused::attention_map_<backend>`` is the map phase of the AMD loss with a square root. Backward
it needs no kernel of its own: with d_f = grad / (2 a), ``amd_fused::amd_bwd_<backend>`` makes 2 A
d_f of it, which is dL/dA. What is computed before that is a C-th of the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.second_order import once_differentiable, one_upstream_gradient

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def attention_map(backend: str, features: Tensor, in_double: bool) -> Tensor:
    """The map [B, 1, H, W] by one backend's operator, differentiable once.

    Args:
        backend: one of KERNELS["attention_map"].
        features: [B, C, H, W].
        in_double: computed in float64, as float64 features must be, rather than in float32; the
            result has that dtype.
    """
    if not (torch.is_grad_enabled() and features.requires_grad):
        return _forward(backend, features, in_double)
    return _AttentionMap.apply(backend, features, in_double)


class _AttentionMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: str, features: Tensor, in_double: bool) -> Tensor:
        a = _forward(backend, features, in_double)
        ctx.save_for_backward(features, a)
        ctx.backend = backend
        return a

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        backend = ctx.backend
        one_upstream_gradient("attention_map", backend, grad)

        def gradients(grad: Tensor, features: Tensor, a: Tensor) -> list[Tensor]:
            # derived: da/df = 1 / (2 a); where a is 0, so are all features.
            zero = a == 0
            d_f = torch.where(zero, 0.0, grad / torch.where(zero, 1.0, 2 * a))
            operator = getattr(torch.ops.amd_fused, f"amd_bwd_{backend}").default
            return operator(a.new_ones(a.shape[0]), [features], [d_f.flatten(1).contiguous()])

        saved = ctx.saved_tensors
        (found,) = once_differentiable("attention_map", backend, gradients, grad, *saved)
        return None, found, None


def _forward(backend: str, features: Tensor, in_double: bool) -> Tensor:
    operator = getattr(torch.ops.amd_fused, f"attention_map_{backend}").default
    return operator(features, in_double)


def _attention_map_fake(features: Tensor, in_double: bool) -> Tensor:
    batch, _, height, width = features.shape
    dtype = torch.float64 if in_double else torch.float32
    return features.new_empty(batch, 1, height, width, dtype=dtype)


define(
    _LIBRARY,
    "attention_map",
    "(Tensor features, bool in_double) -> Tensor",
    _attention_map_fake,
    KERNELS["attention_map"],
    "amd_fused.losses.attention_map.triton",
)
