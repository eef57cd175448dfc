"""Operators: one schema for every fused backend, with their fake kernels and autograd.

``amd_fused::amd_fwd_<backend>`` takes all layer pairs and returns the per-sample losses and, for
every input that wants a gradient, the map d loss_b / d f_b; ``amd_fused::amd_bwd_<backend>`` turns
those into gradients of the features. Imports neither Triton nor the extension: the implementations
register themselves when `_backends` loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused.reference import compute_dtype

FUSED_BACKENDS = ("cpp", "triton")

_FWD_SCHEMA = (
    "(Tensor[] student, Tensor[] teacher, float[]? margin_polynomial, float margin, float scale, "
    "float local_weight, bool released, float[] component_weights, float? mask_threshold, "
    "float[] layer_weights, float eps, bool position_mean, bool[] needs_grad) -> (Tensor, Tensor[])"
)
_BWD_SCHEMA = "(Tensor grad_loss, Tensor[] features, Tensor[] d_f) -> Tensor[]"

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def amd_fwd(backend: str, *args: Any) -> tuple[Tensor, list[Tensor]]:
    """Calls the forward operator of one backend; arguments as in the schema.

    Args:
        student, teacher: L tensors each, [B, C, H_l, W_l].
        margin_polynomial: of `_margin.margin_polynomial`; None for the direct form.
        margin, scale, local_weight, released, component_weights, mask_threshold, eps: as in
            amd_loss (released: formula == "released").
        layer_weights: L numbers, already divided by L.
        position_mean: mean over a region's positions rather than their sum.
        needs_grad: 2 L flags, students first.

    Returns:
        The losses [B] in the compute dtype (float64 if any input is float64, else float32), and for
        each flag that is set, in order, the map d loss_b / d f_b as [B, H*W] in the same dtype.
    """
    return getattr(torch.ops.amd_fused, f"amd_fwd_{backend}")(*args)


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


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    student, teacher, needs_grad = inputs[0], inputs[1], inputs[-1]
    _, d_f = output
    wanted = [a for a, needed in zip([*student, *teacher], needs_grad, strict=True) if needed]
    ctx.save_for_backward(*wanted, *d_f)
    ctx.layers, ctx.needs_grad = len(student), needs_grad


def _register_autograd(backend: str) -> None:
    def backward(ctx: Any, grad_loss: Tensor, _grad_d_f: list[Tensor]) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        half = len(saved) // 2
        bwd = getattr(torch.ops.amd_fused, f"amd_bwd_{backend}")
        grads = iter(bwd(grad_loss, saved[:half], saved[half:]))
        by_input = [next(grads) if needed else None for needed in ctx.needs_grad]
        return by_input[: ctx.layers], by_input[ctx.layers :], *[None] * 11

    def second_order(_ctx: Any, *_grads: Any) -> None:
        raise RuntimeError(
            f"amd_loss: backend {backend!r} has no second derivatives; "
            'use backend="reference" where a gradient is differentiated again'
        )

    torch.library.register_autograd(
        f"amd_fused::amd_fwd_{backend}", backward, setup_context=_save_for_backward, lib=_LIBRARY
    )
    torch.library.register_autograd(f"amd_fused::amd_bwd_{backend}", second_order, lib=_LIBRARY)


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
    _register_autograd(_backend)

# CPU tensors: in Triton's interpreter only, which `_backends.choose` sees to.
for _device in ("CUDA", "CPU"):
    _LIBRARY.impl("amd_fwd_triton", _amd_fwd_triton, _device)
    _LIBRARY.impl("amd_bwd_triton", _amd_bwd_triton, _device)
