"""The attention map in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype


def attention_map(features: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The attention map in plain PyTorch: any floating dtype, derivatives of any order, all 0 where
    the map is 0.

    Arguments, shapes and result as :func:`amd_fused.attention_map`, which checks its arguments and
    is the call for users.

    Source: AMD paper, Eq. 4, of which it is the square root.
    """
    computed_in = torch.float64 if dtype == torch.float64 else compute_dtype([features])
    f = features.to(computed_in).square().sum(dim=1, keepdim=True)
    zero = f == 0
    a = torch.where(zero, 0.0, torch.where(zero, 1.0, f).sqrt())
    return a if dtype is None else a.to(dtype)
