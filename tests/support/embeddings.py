"""Embeddings that the losses on [B, D] are held against their oracles on, and why each is there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import DTYPES
from torch import Tensor

SHAPES = {
    "one number": (1, 1),  # nothing to reduce over
    "narrow": (3, 5),  # narrower than any vector or block
    "odd": (7, 67),  # a vector, and a remainder
    "one block and one": (2, 1025),  # the Triton kernels' block is 1024
    "tiles": (3, 4099),  # two tiles of the C++ kernels and a remainder
    "many samples": (131, 33),  # more than any thread count, not a multiple of one
}


def _window(a: Tensor) -> Tensor:
    larger = a.new_full((a.shape[0] + 2, a.shape[1] + 5), torch.nan)
    return larger[1:-1, 2:-3].copy_(a)


def _every_second_column(a: Tensor) -> Tensor:
    return a.new_full((a.shape[0], 2 * a.shape[1]), torch.nan)[:, ::2].copy_(a)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda a: a.contiguous(),
    "window": _window,
    "every second column": _every_second_column,
    "transposed": lambda a: a.T.contiguous().T,
    "unaligned": lambda a: torch.cat([a.new_zeros(1), a.flatten()])[1:].view(a.shape),
}


def pair(
    shape: tuple[int, int], dtypes: str = "float32", layout: str = "contiguous", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Student and teacher: alike in direction, as trained ones are, of unlike norms."""
    generator = torch.Generator().manual_seed(seed)
    common, own, other = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    # Of the norms either may be the longer.
    scale = 2.0 ** torch.randint(-1, 2, (shape[0], 1), generator=generator)
    made = [
        LAYOUTS[layout](a.to(dtype))
        for a, dtype in zip(
            ((common + own / 2) * scale, common + other / 2), DTYPES[dtypes], strict=True
        )
    ]
    return made[0], made[1]
