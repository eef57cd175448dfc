"""The dtype that a loss computes in, whatever autocast says."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """float64 when any tensor is float64, else float32: the dtype of all sums and of the result."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in their inputs' dtype, whatever the caller's autocast would make of them."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
