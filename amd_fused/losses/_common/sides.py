"""One side's tensors, which a caller gives as one or as several."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def as_list(side: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A tensor as the list of it alone, a sequence as a list of its own."""
    return [side] if isinstance(side, Tensor) else list(side)
