"""What torch's profiler sees of a step: allocations on the CPU, launches on a GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_ON_THE_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def peak_extra_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Highest sum of live allocations made during ``step()``, its results included.

    On a CPU every allocation and release through torch's allocator is a profiler event: exact, and
    not blurred by what the C library keeps back, as the resident set would be. What a kernel
    allocates past torch (``std::vector``) is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = step()
        del kept
        return torch.cuda.max_memory_allocated(device) - before
    live = peak = 0
    for event in _trace(step, [ProfilerActivity.CPU], profile_memory=True):
        if event.get("name") == "[memory]":
            live += event["args"]["Bytes"]
            peak = max(peak, live)
    return peak


def launches(step: Callable[[], object], device: torch.device) -> int | None:
    """Kernels, copies and fills that ``step()`` starts on a GPU; None on a CPU."""
    if device.type != "cuda":
        return None

    def to_the_end() -> None:
        step()
        torch.cuda.synchronize(device)

    events = _trace(to_the_end, [ProfilerActivity.CUDA])
    return sum(event.get("cat") in _ON_THE_DEVICE for event in events)


def _trace(
    step: Callable[[], object], activities: list[ProfilerActivity], **options: Any
) -> list[dict[str, Any]]:
    """All events in order. Chrome traces are the documented export."""
    with profile(activities=activities, **options) as recorded:
        kept = step()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return sorted(events, key=lambda event: event.get("ts", 0))
