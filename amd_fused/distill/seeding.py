"""Random numbers from a seed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def seed_generators(device: torch.device, seed: int) -> None:
    """As `torch.manual_seed`; on the CPU without what that does for GPUs that are not used: it
    keeps the stack of each call, which takes longer than a small layer."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's generator starts from `seed` inside, and goes on afterwards where it was: no trace
    is left in the global state.

    Not `torch.manual_seed`: that one seeds the generators of all devices, which only a
    synchronisation with each of them could restore.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
