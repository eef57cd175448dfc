"""Operators of the AMD loss: one schema for every fused backend, fake kernels and autograd.

``amd_fused::amd_fwd_<backend>`` takes all layer pairs and returns the per-sample losses and, for
every input that wants a gradient, the map d loss_b / d f_b; ``amd_fused::amd_bwd_<backend>`` turns
those into gradients of the features. Imports neither Triton nor the extensions: the implementations
register themselves when `_backends` loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused._ops.second_order import once_differentiable
from amd_fused.reference import compute_dtype

FUSED_BACKENDS = ("cpp", "triton", "cuda")

_FWD_SCHEMA = (
    "(Tensor[] student, Tensor[] teacher, float[]? margin_polynomial, float margin, float scale, "
    "float local_weight, bool released, float[] component_weights, float? mask_threshold, "
    "float[] layer_weights, float eps, bool position_mean, bool[] needs_grad) -> (Tensor, Tensor[])"
)
_BWD_SCHEMA = "(Tensor grad_loss, Tensor[] features, Tensor[] d_f) -> Tensor[]"

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def amd_fwd(
    backend: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *options: Any,
) -> Tensor:
    """Per-sample AMD losses [B] by one backend's operators, differentiable once.

    Args:
        backend: one of FUSED_BACKENDS.
        student, teacher: L tensors each, [B, C, H_l, W_l].
        options: from the schema, after the features and up to needs_grad:
            margin_polynomial (of `_margin.margin_polynomial`; None for the direct form), margin,
            scale, local_weight, released (formula == "released"), component_weights,
            mask_threshold, layer_weights (already divided by L), eps, position_mean (mean over a
            region's positions rather than their sum).

    Returns:
        [B] in the compute dtype: float64 if any input is float64, else float32.
    """
    features = (*student, *teacher)
    grad_enabled = torch.is_grad_enabled()
    needs_grad = [grad_enabled and a.requires_grad for a in features]
    if not any(needs_grad):
        return _forward(backend)(student, teacher, *options, needs_grad)[0]
    return _AMD.apply(backend, len(student), options, needs_grad, *features)


class _AMD(torch.autograd.Function):
    """Autograd around the operators. Registered autograd (torch.library.register_autograd) does the
    same for 220 microseconds more a step, three layers forward and backward, of 390 then:
    measured."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: str,
        layers: int,
        options: tuple[Any, ...],
        needs_grad: list[bool],
        *features: Tensor,
    ) -> Tensor:
        loss, d_f = _forward(backend)(features[:layers], features[layers:], *options, needs_grad)
        wanted = [a for a, needed in zip(features, needs_grad, strict=True) if needed]
        ctx.save_for_backward(*wanted, *d_f)
        ctx.backend, ctx.needs_grad = backend, needs_grad
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        def gradients(grad_loss: Tensor, *saved: Tensor) -> list[Tensor]:
            half = len(saved) // 2
            return _backward(ctx.backend)(grad_loss, saved[:half], saved[half:])

        saved = ctx.saved_tensors
        following = iter(once_differentiable("amd_loss", ctx.backend, gradients, grad_loss, *saved))
        by_feature = [next(following) if needed else None for needed in ctx.needs_grad]
        return None, None, None, None, *by_feature


def _forward(backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"amd_fwd_{backend}").default


def _backward(backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"amd_bwd_{backend}").default


def _amd_fwd_fake(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *options: Any
) -> tuple[Tensor, list[Tensor]]:
    features, needs_grad = [*student, *teacher], options[-1]
    dtype = compute_dtype(features)
    loss = features[0].new_empty(features[0].shape[0], dtype=dtype)
    d_f = [
        a.new_empty(a.shape[0], a.shape[2] * a.shape[3], dtype=dtype)
        for a, needed in zip(features, needs_grad, strict=True)
        if needed
    ]
    return loss, d_f


def _amd_bwd_fake(
    grad_loss: Tensor, features: Sequence[Tensor], d_f: Sequence[Tensor]
) -> list[Tensor]:
    return [torch.empty_like(a) for a in features]


def _amd_fwd_triton(*args: Any) -> tuple[Tensor, list[Tensor]]:
    from amd_fused.kernels import amd

    return amd.amd_fwd_triton(*args)


def _amd_bwd_triton(*args: Any) -> list[Tensor]:
    from amd_fused.kernels import amd

    return amd.amd_bwd_triton(*args)


for _backend in FUSED_BACKENDS:
    _LIBRARY.define(f"amd_fwd_{_backend}{_FWD_SCHEMA}")
    _LIBRARY.define(f"amd_bwd_{_backend}{_BWD_SCHEMA}")
    torch.library.register_fake(f"amd_fused::amd_fwd_{_backend}", _amd_fwd_fake, lib=_LIBRARY)
    torch.library.register_fake(f"amd_fused::amd_bwd_{_backend}", _amd_bwd_fake, lib=_LIBRARY)

# CPU tensors: in Triton's interpreter only, which `_backends.choose` sees to.
for _device in ("CUDA", "CPU"):
    _LIBRARY.impl("amd_fwd_triton", _amd_fwd_triton, _device)
    _LIBRARY.impl("amd_bwd_triton", _amd_bwd_triton, _device)
