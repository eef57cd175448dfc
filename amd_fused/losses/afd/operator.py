"""Operators of AFD: one schema for every fused backend, fake kernels and autograd.

``amd_fused::afd_fwd_<backend>`` returns of each feature the mean of its squares over channels,
[B, 1, H, W], and after those of each the channels' means over positions, [B, C]: one read makes
both. ``amd_fused::afd_bwd_<backend>`` makes of both upstream gradients, which must be contiguous,
the feature's: 2 A d_map / C + d_means / N, in one more read and one write. What the loss makes of
maps and means is a C-th and an N-th of the features, and stays torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.gradients import by_input
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.second_order import once_differentiable, one_upstream_gradient

_FWD_SCHEMA = "(Tensor[] features, bool in_double) -> Tensor[]"
_BWD_SCHEMA = "(Tensor[] grad_maps, Tensor[] grad_means, Tensor[] features) -> Tensor[]"

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


class Reduced(NamedTuple):
    """What the loss takes of one side's features."""

    maps: list[Tensor]  # of each the mean of its squares over channels, [B, 1, H, W]
    means: list[Tensor]  # of each the mean over positions, [B, C]


def afd_fwd(backend: str, features: Sequence[Tensor], in_double: bool) -> Reduced:
    """Maps and means of one side's features by one backend's operators, differentiable once.

    Args:
        backend: one of KERNELS["afd"].
        features: [B, C, H, W], of any sizes.
        in_double: computed in float64, as float64 features must be, rather than in float32; the
            results have that dtype.
    """
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in features]
    if any(needs_grad):
        found = _AFD.apply(backend, needs_grad, in_double, *features)
    else:
        found = _operator("fwd", backend)(features, in_double)
    return Reduced(list(found[: len(features)]), list(found[len(features) :]))


class _AFD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: str, needs_grad: list[bool], in_double: bool, *features: Tensor
    ) -> tuple[Tensor, ...]:
        wanted = [a for a, needed in zip(features, needs_grad, strict=True) if needed]
        ctx.save_for_backward(*wanted)
        ctx.backend, ctx.needs_grad = backend, needs_grad
        return tuple(_operator("fwd", backend)(features, in_double))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        one_upstream_gradient("afd_loss", ctx.backend, grads[0])
        half = len(grads) // 2
        pairs = zip(grads[:half], grads[half:], ctx.needs_grad, strict=True)
        maps, means = zip(*[(m, c) for m, c, needed in pairs if needed], strict=True)

        def gradients(*tensors: Tensor) -> list[Tensor]:
            count = len(maps)
            upstream = [grad.contiguous() for grad in tensors[: 2 * count]]
            operator = _operator("bwd", ctx.backend)
            return operator(upstream[:count], upstream[count:], tensors[2 * count :])

        found = once_differentiable(
            "afd_loss", ctx.backend, gradients, *maps, *means, *ctx.saved_tensors
        )
        return None, None, None, *by_input(found, ctx.needs_grad)


def _operator(step: str, backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"afd_{step}_{backend}").default


def _fwd_fake(features: Sequence[Tensor], in_double: bool) -> list[Tensor]:
    dtype = torch.float64 if in_double else torch.float32
    maps = [a.new_empty(a.shape[0], 1, *a.shape[2:], dtype=dtype) for a in features]
    return maps + [a.new_empty(a.shape[:2], dtype=dtype) for a in features]


def _bwd_fake(
    grad_maps: Sequence[Tensor], grad_means: Sequence[Tensor], features: Sequence[Tensor]
) -> list[Tensor]:
    return [torch.empty_like(a) for a in features]


define(_LIBRARY, "afd_fwd", _FWD_SCHEMA, _fwd_fake, KERNELS["afd"], "amd_fused.losses.afd.triton")
define(_LIBRARY, "afd_bwd", _BWD_SCHEMA, _bwd_fake, KERNELS["afd"], "amd_fused.losses.afd.triton")
