"""Times steps in turns: by the wall clock on a CPU, by events on a GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

# Called by a step at the end of each of its stages.
Mark = Callable[[], None]
# One forward and backward pass, say.
Step = Callable[[Mark], None]
# Of each counted call, seconds from its start to each of its marks.
Times = list[tuple[float, ...]]


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Args:
        min_time: seconds, shared by all steps.
        min_rounds: rounds of turns, however long they take.
        calls_per_turn: timed calls of one step in a row, after one that is not timed.
    """

    min_time: float = 12.0
    min_rounds: int = 5
    calls_per_turn: int = 2


class Clock(Protocol):
    def turn(self, step: Step, calls: int) -> Times:
        """Runs the step ``calls`` times in a row, after once that is not counted."""


class HostClock:
    """What a call costs the host: the wall clock, with the device idle when the call begins."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def turn(self, step: Step, calls: int) -> Times:
        return [self._call(step) for _ in range(calls + 1)][1:]

    def _call(self, step: Step) -> tuple[float, ...]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        marks: list[float] = []
        start = time.perf_counter()
        step(lambda: marks.append(time.perf_counter()))
        return tuple(mark - start for mark in marks)


class CudaClock:
    """Events on the current stream; the device is waited for once, at the end of a turn.

    So the calls run as they do in training: one is prepared while the one before it runs, and the
    time of a call is the GPU's or the host's, whichever is longer.
    """

    def turn(self, step: Step, calls: int) -> Times:
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


def clock_of(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock(device)


def interleave(steps: Mapping[str, Step], settings: Settings, clock: Clock) -> dict[str, Times]:
    """Gives every step its turn, in fixed order, round after round: slow drifts hit all alike.

    The first call of a turn is not counted: it finds the allocator and the caches as another
    step left them.
    """
    times: dict[str, Times] = {key: [] for key in steps}
    collecting = gc.isenabled()
    gc.disable()
    try:
        start, rounds = time.perf_counter(), 0
        while rounds < settings.min_rounds or time.perf_counter() - start < settings.min_time:
            for key, step in steps.items():
                times[key] += clock.turn(step, settings.calls_per_turn)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return times
