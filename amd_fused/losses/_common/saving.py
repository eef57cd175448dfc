"""Tensors that the backward pass needs, among them a teacher's of torch.inference_mode()."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def save(ctx: Any, *tensors: Tensor) -> None:
    """``ctx.save_for_backward``, which refuses inference tensors: they are kept beside the others.

    Nothing is lost by that: no gradient flows to them, and autograd does not see writes into them.
    """
    ctx.beside = {}
    if not torch.compiler.is_compiling():
        ctx.beside = {i: a for i, a in enumerate(tensors) if a.is_inference()}
    ctx.save_for_backward(*(None if i in ctx.beside else a for i, a in enumerate(tensors)))


def saved(ctx: Any) -> list[Tensor]:
    """What :func:`save` was given, in the same order."""
    return [ctx.beside.get(i, a) for i, a in enumerate(ctx.saved_tensors)]


def kept_by_autograd(a: Tensor) -> Tensor:
    """a; a copy of it where it is an inference tensor, which autograd keeps for no backward pass.

    A compiler or exporter has no inference tensors and needs no copies.
    """
    return a.clone() if not torch.compiler.is_compiling() and a.is_inference() else a
