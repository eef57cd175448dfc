"""Criteria whose buffers go where their inputs are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def follow(criterion: nn.Module, student: Any) -> None:
    """Moves the criterion to the device of its input, once.

    Frameworks that keep criteria outside the module tree (torchdistill for one) do not move them
    with the model. Parameters stay the same objects, so an optimiser keeps hold of them.
    """
    if isinstance(student, Tensor):
        held = next(criterion.buffers())
        if held.device != student.device:
            criterion.to(student.device)
