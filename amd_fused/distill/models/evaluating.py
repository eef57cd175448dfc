"""A network looked at without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; then every module's mode as before."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def example(network: nn.Module, channels: int, image_size: int) -> Tensor:
    """One image `[1, C, H, W]` of zeros, of the dtype and on the device of the network."""
    like = next(network.parameters(), torch.zeros(()))
    return like.new_zeros(1, channels, image_size, image_size)
