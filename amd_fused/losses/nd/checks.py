"""Checks of ND that look at values."""

from __future__ import annotations

import torch
from torch import Tensor


def labels_in_range(owner: str, name: str, target: Tensor, classes: int) -> None:
    """Every label has a class mean. Looks at the values: on a GPU that would be a host sync."""
    low, high = (int(extreme) for extreme in torch.aminmax(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"{owner}: {name} must be between 0 and {classes - 1}, the classes that class_means "
            f"has, got {low if low < 0 else high}"
        )
