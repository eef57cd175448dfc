"""Steps are timed in turns: what is counted, and when a GPU is waited for. It is stood in for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from amd_fused.distill import clock

CPU = torch.device("cpu")


class FakeCuda:
    """A device whose clock the test turns: events and waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, 0

    def synchronize(self, device: object = None) -> None:
        self.waits += 1

    def event(self, enable_timing: bool) -> SimpleNamespace:
        assert enable_timing
        made = SimpleNamespace(at=0.0)
        made.record = lambda: setattr(made, "at", self.now)
        made.elapsed_time = lambda later: later.at - made.at
        return made


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    return fake


def test_turn_on_a_gpu_waits_once_and_leaves_out_the_first_call(cuda: FakeCuda) -> None:
    calls: list[None] = []

    def step(mark: Callable[[], None]) -> None:
        """The n-th call takes n ms, and as much again for its second stage."""
        calls.append(None)
        for _ in range(2):
            cuda.now += len(calls)
            mark()

    times = clock.clock_of(torch.device("cuda")).turn(step, calls=2)
    assert times == [pytest.approx((2e-3, 4e-3)), pytest.approx((3e-3, 6e-3))]
    assert cuda.waits == 1


def test_host_clock_finds_the_device_idle_at_each_call(cuda: FakeCuda) -> None:
    waits: list[int] = []

    def step(mark: Callable[[], None]) -> None:
        waits.append(cuda.waits)
        mark()

    assert len(clock.HostClock(torch.device("cuda")).turn(step, calls=2)) == 2
    assert waits == [1, 2, 3]
    assert len(clock.clock_of(CPU).turn(step, calls=1)) == 1
    assert cuda.waits == 3


def test_steps_take_turns_in_fixed_order_and_the_first_call_of_a_turn_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    now = 0
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))

    def step(key: str, mark: Callable[[], None]) -> None:
        """The n-th call of all takes n seconds."""
        nonlocal now
        calls.append(key)
        now += len(calls)
        mark()

    settings = clock.Settings(min_time=0.0, min_rounds=2, calls_per_turn=2)
    steps = {key: partial(step, key) for key in "ab"}
    times = clock.interleave(steps, settings, clock.clock_of(CPU))
    assert "".join(calls) == "aaabbbaaabbb"
    assert times == {"a": [(2,), (3,), (8,), (9,)], "b": [(5,), (6,), (11,), (12,)]}
