"""The LSH loss in plain PyTorch: hashes of embeddings by random hyperplanes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.saving import kept_by_autograd


def lsh_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str = "bce",
    l2_weight: float = 1.0,
) -> Tensor:
    """LSH loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.lsh_loss`, which checks its arguments and is
    the call for users (``backend="reference"`` comes here). Half precision is widened to float32
    first. Holds all hash values, [B, H], at once.

    Source: Wang, Ge, Wu, "Distilling Knowledge by Mimicking Features", TPAMI 2021: the LSH loss.
    """
    dtype = compute_dtype([student, teacher])
    with without_autocast(student.device.type):
        s, t, w = student.to(dtype), teacher.to(dtype), kept_by_autograd(weight.to(dtype))
        if kind == "bce":
            b = None if bias is None else bias.to(dtype)
            hash_s, hash_t = F.linear(s, w, b), F.linear(t.detach(), w, b)
            # A hash of NaN or Inf is neither side of its hyperplane: it must reach the loss.
            side = torch.where(hash_t.isfinite(), (hash_t > 0).to(dtype), torch.nan)
            side = torch.where(hash_s.isfinite(), side, torch.nan)
            loss = F.binary_cross_entropy_with_logits(hash_s, side)
        else:
            # The bias is in either hash and cancels.
            difference = F.linear(s - t, w)
            loss = (difference.square() if kind == "l2" else difference.abs()).mean()
        if l2_weight == 0:
            return loss
        return loss + l2_weight * (s - t).square().mean()
