"""Time of a step's stages: the wall clock on a CPU, events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

# Called by a step at the end of each of its stages.
Mark = Callable[[], None]
# One forward and backward pass, say.
Step = Callable[[Mark], None]


class Clock(Protocol):
    def turn(self, step: Step, calls: int) -> list[tuple[float, ...]]:
        """Runs the step ``calls`` times in a row, after once that is not counted.

        Returns:
            For each counted call, seconds from its start to each of its marks.
        """


class CpuClock:
    def turn(self, step: Step, calls: int) -> list[tuple[float, ...]]:
        return [self._call(step) for _ in range(calls + 1)][1:]

    @staticmethod
    def _call(step: Step) -> tuple[float, ...]:
        marks: list[float] = []
        start = time.perf_counter()
        step(lambda: marks.append(time.perf_counter()))
        return tuple(mark - start for mark in marks)


class CudaClock:
    """Events on the current stream; the device is waited for once, at the end of a turn.

    So the calls run as they do in training: one is prepared while the one before it runs, and the
    time of a call is the GPU's or the host's, whichever is longer.
    """

    def turn(self, step: Step, calls: int) -> list[tuple[float, ...]]:
        recorded = [self._call(step) for _ in range(calls + 1)][1:]
        torch.cuda.synchronize()
        return [
            tuple(1e-3 * start.elapsed_time(mark) for mark in marks) for start, *marks in recorded
        ]

    @staticmethod
    def _call(step: Step) -> list[torch.cuda.Event]:
        events: list[torch.cuda.Event] = []

        def mark() -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events.append(event)

        mark()
        step(mark)
        return events


class HostClock:
    """What a call costs the host: the wall clock, with the device idle when the call begins."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def turn(self, step: Step, calls: int) -> list[tuple[float, ...]]:
        times = []
        for _ in range(calls + 1):
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            times.append(CpuClock._call(step))
        return times[1:]


def clock_of(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else CpuClock()
