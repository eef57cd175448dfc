"""Host side that all Triton kernels share: launches as data, on the tensors' device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton

# Numbers of a row that a program holds at once: 16 bytes a thread and load in float32, twice over.
_LARGEST_BLOCK = 1024
_SMALLEST_BLOCK = 128
# The interpreter has no device to ask: that of an H100.
_INTERPRETER_MULTIPROCESSORS = 132

TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
# Whether products are fused with sums. Where Triton 3.9 does it, each thread of a sum fuses its own
# product and adds its neighbours' rounded ones: they differ in the last digit, and store different
# numbers to one address (found by tests/triton_on_host).
FUSED_MULTIPLY_ADD = TRITON < (3, 9)


def block(width: int) -> int:
    """Of a row of so many numbers, how many a program holds at once."""
    return min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, triton.next_power_of_2(width)))


def on_device(device: torch.device) -> Any:
    """Triton launches on the current device: make it the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


_MULTIPROCESSORS: dict[torch.device, int] = {}


def multiprocessors_of(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETER_MULTIPROCESSORS
    if device not in _MULTIPROCESSORS:
        properties = torch.cuda.get_device_properties(device)
        _MULTIPROCESSORS[device] = properties.multi_processor_count
    return _MULTIPROCESSORS[device]


@dataclass
class Launch:
    """One kernel launch, kept as data so that tests can compile it for other devices."""

    kernel: Any
    programs: int
    args: tuple[Any, ...]
    constants: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """What was compiled for it; None in Triton's interpreter."""
        return self.kernel[(self.programs,)](
            *self.args, enable_fp_fusion=FUSED_MULTIPLY_ADD, **self.constants
        )


# Runs launches; returns what was compiled for each, where a replay may want it.
Submit = Callable[[Sequence[Launch]], list[Any] | None]


def run_all(launches: Sequence[Launch]) -> list[Any]:
    """What was compiled for each."""
    return [launch.run() for launch in launches]
