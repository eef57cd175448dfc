"""What torch's profiler sees of a step: allocations on the CPU, kernels on a GPU."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_ON_THE_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_TRACED_CALLS = 5


def peak_extra_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Highest sum of live allocations made during ``step()``, its results included.

    On a CPU every allocation and release through torch's allocator is a profiler event: exact, and
    not blurred by what the C library keeps back, as the resident set would be. What a kernel
    allocates past torch (``std::vector``) is not seen.
    """
    if device.type == "cuda":
        gc.collect()  # what falls to the collector during the step would count against it
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


def kernels(step: Callable[[], object], device: torch.device) -> list[dict[str, Any]] | None:
    """Kernels, copies and fills that ``step()`` starts on a GPU, in order; None on a CPU.

    Each with its name and microseconds, the median of a few calls.
    """
    if device.type != "cuda":
        return None

    def to_the_end() -> None:
        for _ in range(_TRACED_CALLS):
            step()
        torch.cuda.synchronize(device)

    events = _trace(to_the_end, [ProfilerActivity.CUDA])
    seen = [event for event in events if event.get("cat") in _ON_THE_DEVICE]
    count = len(seen) // _TRACED_CALLS
    return [
        {
            "name": seen[i]["name"],
            "us": statistics.median(event["dur"] for event in seen[i::count]),
        }
        for i in range(count)
    ]


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
