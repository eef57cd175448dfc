"""Operators of the ND loss: one schema for every fused backend, fake kernels and autograd.

``amd_fused::nd_fwd_<backend>`` returns the per-sample losses [B] and three slopes a sample [B, 3],
from which ``amd_fused::nd_bwd_<backend>`` makes the gradients in one more pass:
d loss_b / d s_b = slopes[b, 0] class_means[target[b]] + slopes[b, 1] s_b and
d loss_b / d t_b = slopes[b, 2] t_b. A label without a class mean: the C++ operator raises, the
Triton operator, which must not wait for the device, gives loss and gradient 0.
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

_FWD_SCHEMA = (
    "(Tensor student, Tensor teacher, Tensor target, Tensor class_means) -> (Tensor, Tensor)"
)
_BWD_SCHEMA = (
    "(Tensor grad_loss, Tensor student, Tensor teacher, Tensor target, Tensor class_means, "
    "Tensor slopes, bool[] needs_grad) -> Tensor[]"
)

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def nd_fwd(
    backend: str, student: Tensor, teacher: Tensor, target: Tensor, class_means: Tensor
) -> Tensor:
    """The ND loss, 0-d, by one backend's operators, differentiable once.

    Args:
        backend: "cpp" or "triton".
        student, teacher: [B, D].
        target: [B], int64.
        class_means: [K, D], a constant; float64 only if student or teacher is.

    Returns:
        The mean over samples in the compute dtype: float64 if student or teacher is float64, else
        float32. It is taken here, for a node of autograd less.
    """
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in (student, teacher)]
    if not any(needs_grad):
        return _operator("fwd", backend)(student, teacher, target, class_means)[0].mean()
    return _ND.apply(backend, needs_grad, student, teacher, target, class_means)


class _ND(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: str,
        needs_grad: list[bool],
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        class_means: Tensor,
    ) -> Tensor:
        loss, slopes = _operator("fwd", backend)(student, teacher, target, class_means)
        save(ctx, student, teacher, target, class_means, slopes)
        ctx.backend, ctx.needs_grad = backend, needs_grad
        return loss.mean()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        one_upstream_gradient("nd_loss", ctx.backend, grad_loss)
        operator, needs_grad = _operator("bwd", ctx.backend), ctx.needs_grad

        def gradients(grad_loss: Tensor, student: Tensor, *rest: Tensor) -> list[Tensor]:
            batch = student.shape[0]
            return operator((grad_loss / batch).expand(batch), student, *rest, needs_grad)

        grads = once_differentiable("nd_loss", ctx.backend, gradients, grad_loss, *saved(ctx))
        return None, None, *by_input(grads, needs_grad), None, None


def _operator(step: str, backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"nd_{step}_{backend}").default


def _fwd_fake(
    student: Tensor, teacher: Tensor, target: Tensor, class_means: Tensor
) -> tuple[Tensor, Tensor]:
    batch, dtype = student.shape[0], compute_dtype([student, teacher])
    return student.new_empty(batch, dtype=dtype), student.new_empty(batch, 3, dtype=dtype)


def _bwd_fake(
    grad_loss: Tensor,
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    class_means: Tensor,
    slopes: Tensor,
    needs_grad: Sequence[bool],
) -> list[Tensor]:
    inputs = zip((student, teacher), needs_grad, strict=True)
    return [torch.empty_like(a) for a, needed in inputs if needed]


define(_LIBRARY, "nd_fwd", _FWD_SCHEMA, _fwd_fake, KERNELS["nd"], "amd_fused.losses.nd.triton")
define(_LIBRARY, "nd_bwd", _BWD_SCHEMA, _bwd_fake, KERNELS["nd"], "amd_fused.losses.nd.triton")
