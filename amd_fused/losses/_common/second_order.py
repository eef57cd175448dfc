"""What a fused backward pass does when its result is differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from amd_fused.losses._common.advice import option_of


def once_differentiable(
    owner: str, backend: str | None, backward: Callable[..., list[Tensor]], *tensors: Tensor
) -> Any:
    """``backward(*tensors)``; under create_graph=True an error, rather than zero, if its result is
    differentiated.

    Args:
        owner, backend: for the message; a loss without backends has None.
        backward: returns gradients.
        tensors: all that it depends on, the upstream gradient first.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _NoSecondOrder.apply(owner, backend, backward, *tensors)
    return backward(*tensors)


def one_upstream_gradient(owner: str, backend: str, grad_loss: Tensor) -> None:
    """Refuses several at once, of which an operator knows nothing."""
    if torch.compiler.is_compiling():
        return
    functorch = torch._C._functorch
    if functorch.is_legacy_batchedtensor(grad_loss) or functorch.is_batchedtensor(grad_loss):
        raise RuntimeError(
            f"{owner}: backend {backend!r} takes one upstream gradient at a time, got several "
            "(is_grads_batched=True, or a Jacobian with vectorize=True); "
            f'use backend="reference"{option_of(owner)}, or a loop'
        )


class _NoSecondOrder(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        owner: str,
        backend: str | None,
        backward: Callable[..., list[Tensor]],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.owner, ctx.backend = owner, backend
        return tuple(backward(*tensors))

    @staticmethod
    def backward(ctx: Any, *_grads: Tensor) -> Any:
        what, remedy = "it", f"amd_fused.reference.{ctx.owner}"
        if ctx.backend is not None:
            what = f"backend {ctx.backend!r}"
            remedy = f'backend="reference"{option_of(ctx.owner)}'
        raise RuntimeError(
            f"{ctx.owner}: {what} has no second derivatives; "
            f"use {remedy} where a gradient is differentiated again"
        )
