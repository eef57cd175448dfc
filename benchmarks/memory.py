"""How much memory a step allocates at its highest, above what was there before it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_extra_bytes(step: Callable[[], object]) -> int:
    """Highest sum of live allocations made during ``step()``, its results included.

    Every allocation and release through torch's CPU allocator is a profiler event: exact, and not
    blurred by what the C library keeps back, as the resident set would be. What a kernel allocates
    past torch (``std::vector``) is not seen.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = step()
    del kept
    live = peak = 0
    for change in _allocation_events(recorded):
        live += change
        peak = max(peak, live)
    return peak


def _allocation_events(recorded: profile) -> list[int]:
    """Bytes allocated (+) and released (-), in order. Chrome traces are the documented export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]
