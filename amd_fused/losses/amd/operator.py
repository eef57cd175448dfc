"""Operators of the AMD loss: one schema for every fused backend, fake kernels and autograd.

``amd_fused::amd_fwd_<backend>`` takes all layer pairs and returns the per-sample losses and, for
every input that wants a gradient, the map d loss_b / d f_b; ``amd_fused::amd_bwd_<backend>`` turns
those into gradients of the features. Under torch.compile ``amd_fused::amd_fwd_varying`` stands for
the former, with one tensor of all numbers, so that new ones compile nothing. Imports neither Triton
nor the extensions: the implementations register themselves when `_backends` loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.gradients import by_input
from amd_fused.losses._common.numbers import as_tensor
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.second_order import once_differentiable, one_upstream_gradient
from amd_fused.losses.amd.margin import margin_polynomial
from amd_fused.losses.amd.options import FormulaOptions, Operands, layer_weights, operands

_FWD_SCHEMA = (
    "(Tensor[] student, Tensor[] teacher, float[]? margin_polynomial, float margin, float scale, "
    "float local_weight, bool released, float[] component_weights, float? mask_threshold, "
    "float[] layer_weights, float eps, bool position_mean, bool[] needs_grad) -> (Tensor, Tensor[])"
)
_VARYING_SCHEMA = (
    "(str backend, Tensor[] student, Tensor[] teacher, Tensor numbers, bool released, bool masked, "
    "bool position_mean, bool[] needs_grad) -> (Tensor, Tensor[])"
)
_BWD_SCHEMA = "(Tensor grad_loss, Tensor[] features, Tensor[] d_f) -> Tensor[]"

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def amd_fwd(
    backend: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    options: FormulaOptions,
    owner: str,
) -> Tensor:
    """Per-sample AMD losses [B] by one backend's operators, differentiable once.

    Args:
        backend: one of KERNELS["amd"].
        student, teacher: L tensors each, [B, C, H_l, W_l], of the same size in a pair.
        options: checked. ``align`` was seen to, and of ``reduction`` only "batchmean" counts here.
        owner: the loss that is computed, for messages.

    Returns:
        [B] in the compute dtype: float64 if any input is float64, else float32.
    """
    features = (*student, *teacher)
    grad_enabled = torch.is_grad_enabled()
    needs_grad = [grad_enabled and a.requires_grad for a in features]
    numbers: Tensor | None = None
    told: tuple[Any, ...]
    # An exported program has its options for good.
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        threshold = options.mask_threshold
        numbers = as_tensor(
            options.margin,
            options.scale,
            options.local_weight,
            options.eps,
            0.0 if threshold is None else threshold,
            *options.component_weights,
            *layer_weights(options, len(student)),
        )
        told = (
            options.formula == "released", threshold is not None, options.reduction != "batchmean",
        )  # fmt: skip
    else:
        told = operands(options, features)
    if not any(needs_grad):
        return _forward(backend, student, teacher, numbers, told, needs_grad)[0]
    return _AMD.apply(owner, backend, len(student), told, needs_grad, numbers, *features)


class _AMD(torch.autograd.Function):
    """Autograd around the operators. Registered autograd (torch.library.register_autograd) does the
    same for 220 microseconds more a step, three layers forward and backward, of 390 then:
    measured."""

    @staticmethod
    def forward(
        ctx: Any,
        owner: str,
        backend: str,
        layers: int,
        told: tuple[Any, ...],
        needs_grad: list[bool],
        numbers: Tensor | None,
        *features: Tensor,
    ) -> Tensor:
        student, teacher = features[:layers], features[layers:]
        loss, d_f = _forward(backend, student, teacher, numbers, told, needs_grad)
        wanted = [a for a, needed in zip(features, needs_grad, strict=True) if needed]
        ctx.save_for_backward(*wanted, *d_f)
        ctx.owner, ctx.backend, ctx.needs_grad = owner, backend, needs_grad
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        one_upstream_gradient(ctx.owner, ctx.backend, grad_loss)

        def gradients(grad_loss: Tensor, *saved: Tensor) -> list[Tensor]:
            half = len(saved) // 2
            return _backward(ctx.backend)(grad_loss, saved[:half], saved[half:])

        saved = ctx.saved_tensors
        found = once_differentiable(ctx.owner, ctx.backend, gradients, grad_loss, *saved)
        return None, None, None, None, None, None, *by_input(found, ctx.needs_grad)


def _forward(
    backend: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    numbers: Tensor | None,
    told: tuple[Any, ...],
    needs_grad: list[bool],
) -> Any:
    """``told``: Operands; with ``numbers`` the switches of amd_fwd_varying."""
    if numbers is not None:
        operator = torch.ops.amd_fused.amd_fwd_varying.default
        return operator(backend, student, teacher, numbers, *told, needs_grad)
    operator = getattr(torch.ops.amd_fused, f"amd_fwd_{backend}").default
    return operator(student, teacher, *told, needs_grad)


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


def _amd_fwd_varying(
    backend: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    numbers: Tensor,
    released: bool,
    masked: bool,
    position_mean: bool,
    needs_grad: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    """numbers: margin, scale, local_weight, eps, mask_threshold, three component weights, L layer
    weights; float64 on the CPU."""
    margin, scale, local_weight, eps, threshold, *weights = numbers.tolist()
    told = Operands(
        margin_polynomial(margin, compute_dtype([*student, *teacher]) == torch.float64),
        margin,
        scale,
        local_weight,
        released,
        weights[:3],
        threshold if masked else None,
        weights[3:],
        eps,
        position_mean,
    )
    return _forward(backend, student, teacher, None, told, needs_grad)


def _amd_varying_fake(
    backend: str, student: Sequence[Tensor], teacher: Sequence[Tensor], *options: Any
) -> tuple[Tensor, list[Tensor]]:
    return _amd_fwd_fake(student, teacher, *options)


def _amd_fwd_triton(
    student: list[Tensor], teacher: list[Tensor], *told: Any
) -> tuple[Tensor, list[Tensor]]:
    from amd_fused.losses.amd.triton import launcher

    *operands, needs_grad = told
    return launcher.amd_fwd_triton(student, teacher, Operands(*operands), needs_grad)


_LIBRARY.define(f"amd_fwd_varying{_VARYING_SCHEMA}")
_LIBRARY.impl("amd_fwd_varying", _amd_fwd_varying, "CompositeExplicitAutograd")
torch.library.register_fake("amd_fused::amd_fwd_varying", _amd_varying_fake, lib=_LIBRARY)
define(_LIBRARY, "amd_fwd", _FWD_SCHEMA, _amd_fwd_fake, KERNELS["amd"], _amd_fwd_triton)
define(
    _LIBRARY,
    "amd_bwd",
    _BWD_SCHEMA,
    _amd_bwd_fake,
    KERNELS["amd"],
    "amd_fused.losses.amd.triton.launcher",
)
