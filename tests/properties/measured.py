"""When a result is right: near the oracle's, or not a number where that is said."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def compute_eps(*tensors: Tensor) -> float:
    """Of the dtype that sums are made in."""
    double = any(a.dtype == torch.float64 for a in tensors)
    return torch.finfo(torch.float64 if double else torch.float32).eps


def assert_rows_near(found: Tensor, exact: Tensor, allowed: Tensor | float, what: Any) -> None:
    """Each sample's gradient to a part in a thousand, to what the dtype can hold, and to
    ``allowed``, one number a sample or one for all."""
    info = torch.finfo(found.dtype)
    rows, true = found.double().flatten(1), exact.double().flatten(1)
    # A gradient past the range of the dtype is Inf there, as it should be.
    past = true.abs() > info.max * 0.99
    error = torch.where(past, 0.0, rows - true).norm(dim=1)
    true = torch.where(past, 0.0, true)
    held = (4 * info.eps + 1e-3) * true.norm(dim=1) + 4 * info.smallest_normal * info.eps * (
        true.shape[1] ** 0.5
    )
    worst = (error - held - allowed).max()
    assert worst <= 0, f"{what}: gradient {rows} instead of {true}, allowed {allowed}"
