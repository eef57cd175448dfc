"""Host side that the kernels over rows of a matrix share."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton

# Numbers of a row that a program holds at once: 16 bytes a thread and load in float32, twice over.
_LARGEST_BLOCK = 1024
_SMALLEST_BLOCK = 128


def block(width: int) -> int:
    """Of a row of so many numbers, how many a program holds at once."""
    return min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, triton.next_power_of_2(width)))


def on_device(device: torch.device) -> Any:
    """Triton launches on the current device: make it the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
