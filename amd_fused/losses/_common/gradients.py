"""What the losses' autograd functions do with the gradients that their operators return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


def by_input(found: Iterable[Tensor], needs_grad: Sequence[bool]) -> list[Tensor | None]:
    """The gradients, which are of the inputs that need one, each at its input's place."""
    gradients = iter(found)
    return [next(gradients) if needed else None for needed in needs_grad]


def scaled(upstream: Tensor, *saved: Tensor) -> list[Tensor]:
    """Gradients at an upstream gradient of 1 times the real one: in the compute dtype, before the
    cast to the input's.

    Args:
        saved: the gradients, then as many inputs that they are of.
    """
    half = len(saved) // 2
    pairs = zip(saved[:half], saved[half:], strict=True)
    return [(upstream * slope).to(a.dtype) for slope, a in pairs]
