"""Operators of the AFDS loss: one schema for every fused backend, fake kernels and autograd.

VID's squared distances are the same of channels that are not normalised, eps None.

``amd_fused::afds_fwd_<backend>`` returns of one layer the distance of each channel of each sample,
[B, C], mean over positions, and four numbers a channel, [B, C, 4], from which
``amd_fused::afds_bwd_<backend>`` makes the gradients in one more pass: the inverses of
norm + eps of student and teacher, then (x - y).x / norm and (y - x).y / norm of the normalised
channels x and y; without normalisation 1, 1, 0 and 0. The importance, which weighs the distances,
stays torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.gradients import by_input
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.saving import save, saved
from amd_fused.losses._common.second_order import once_differentiable, one_upstream_gradient

_FWD_SCHEMA = "(Tensor student, Tensor teacher, float? eps) -> (Tensor, Tensor)"
_BWD_SCHEMA = (
    "(Tensor grad_distance, Tensor student, Tensor teacher, Tensor numbers, bool[] needs_grad) "
    "-> Tensor[]"
)

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def afds_fwd(
    backend: str, student: Tensor, teacher: Tensor, eps: float | None, owner: str = "afds_loss"
) -> Tensor:
    """Distances [B, C] of one layer by one backend's operators, differentiable once.

    Args:
        backend: "cpp", "cuda" or "triton".
        student, teacher: [B, C, H, W].
        eps: added to the norms, > 0; None: channels are compared as they are.
        owner: of errors in the backward pass.

    Returns:
        [B, C] in the compute dtype: float64 if student or teacher is float64, else float32.
    """
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in (student, teacher)]
    if not any(needs_grad):
        return _operator("fwd", backend)(student, teacher, eps)[0]
    return _AFDS.apply(owner, backend, needs_grad, eps, student, teacher)


class _AFDS(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        owner: str,
        backend: str,
        needs_grad: list[bool],
        eps: float | None,
        student: Tensor,
        teacher: Tensor,
    ) -> Tensor:
        distance, numbers = _operator("fwd", backend)(student, teacher, eps)
        save(ctx, student, teacher, numbers)
        ctx.owner, ctx.backend, ctx.needs_grad = owner, backend, needs_grad
        return distance

    @staticmethod
    def backward(ctx: Any, grad_distance: Tensor) -> tuple[Any, ...]:
        one_upstream_gradient(ctx.owner, ctx.backend, grad_distance)
        operator, needs_grad = _operator("bwd", ctx.backend), ctx.needs_grad
        grads = once_differentiable(
            ctx.owner,
            ctx.backend,
            lambda *tensors: operator(*tensors, needs_grad),
            grad_distance,
            *saved(ctx),
        )
        return None, None, None, None, *by_input(grads, needs_grad)


def _operator(step: str, backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"afds_{step}_{backend}").default


def _fwd_fake(student: Tensor, teacher: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    shape, dtype = student.shape[:2], compute_dtype([student, teacher])
    return student.new_empty(shape, dtype=dtype), student.new_empty((*shape, 4), dtype=dtype)


def _bwd_fake(
    grad_distance: Tensor,
    student: Tensor,
    teacher: Tensor,
    numbers: Tensor,
    needs_grad: Sequence[bool],
) -> list[Tensor]:
    inputs = zip((student, teacher), needs_grad, strict=True)
    return [torch.empty_like(a) for a, needed in inputs if needed]


define(
    _LIBRARY, "afds_fwd", _FWD_SCHEMA, _fwd_fake, KERNELS["afds"], "amd_fused.losses.afds.triton"
)
define(
    _LIBRARY, "afds_bwd", _BWD_SCHEMA, _bwd_fake, KERNELS["afds"], "amd_fused.losses.afds.triton"
)
