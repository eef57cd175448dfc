"""Criteria whose parameters and buffers go where their inputs are."""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import Tensor, nn


def follow(criterion: nn.Module, student: Any) -> None:
    """Moves the criterion to the device of its input, a tensor or the first of several, once.

    Frameworks that keep criteria outside the module tree (torchdistill for one) do not move them
    with the model. Parameters stay the same objects, so an optimiser keeps hold of them.
    """
    first = student[0] if isinstance(student, (list, tuple)) and student else student
    if isinstance(first, Tensor):
        held = next(chain(criterion.buffers(), criterion.parameters()))
        if held.device != first.device:
            criterion.to(first.device)
