"""Runs a loss with gradients and measures its distance from the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amd_fused import reference


class Result(NamedTuple):
    loss: Tensor
    grads: tuple[Tensor, ...]


def run(loss_fn: Callable[..., Tensor], student: Any, teacher: Any, **options: Any) -> Result:
    """Loss and gradients by all student, then all teacher features; inputs are left without
    grad."""
    leaves = [a.detach().requires_grad_() for a in [*_list(student), *_list(teacher)]]
    half = len(_list(student))
    loss = loss_fn(leaves[:half], leaves[half:], **options)
    # "none": weighted, so that samples cannot be swapped unseen.
    upstream = torch.linspace(1.0, 2.0, loss.numel(), dtype=loss.dtype, device=loss.device)
    upstream = upstream.view(loss.shape)
    return Result(loss.detach(), torch.autograd.grad(loss, leaves, upstream))


def oracle(student: Any, teacher: Any, **options: Any) -> Result:
    """The reference in float64, itself held against oracle.py, which shares no code with
    it."""
    return run(
        reference.amd_loss,
        [a.double() for a in _list(student)],
        [a.double() for a in _list(teacher)],
        **options,
    )


def relative_error(value: Tensor, exact: Tensor) -> float:
    """||value - exact|| / ||exact||."""
    difference = (value.double() - exact).norm()
    return float(difference / exact.norm()) if difference else 0.0


def _list(features: Any) -> list[Tensor]:
    return [features] if isinstance(features, Tensor) else list(features)
