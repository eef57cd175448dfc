"""Random numbers from a seed alone, without a trace in the global state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's generator starts from `seed` inside, and goes on afterwards where it was.

    Not `torch.manual_seed`: that one seeds the generators of all devices, which only a
    synchronisation with each of them could restore.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
