"""Times variants of one computation so that the figures can be believed.

A subject (one file a loss) makes a :class:`~benchmarks.subject.Case`. :func:`measure` refuses the
variants whose loss or gradient is wrong, times the others in turns together with a plain copy, and
gives the record that is written as JSON.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

import torch

from benchmarks import environment, parity
from benchmarks.memory import peak_extra_bytes
from benchmarks.subject import COMPILED, EAGER, Case, Loss, Variant

# A step runs once and returns the seconds of its stages, each counted from the start.
Step = Callable[[], tuple[float, ...]]


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Args:
        min_time: seconds for each case, shared by its variants and the copy.
        min_rounds: rounds of turns, however long they take.
        calls_per_turn: timed calls of one variant in a row, after one that is not timed.
    """

    min_time: float = 12.0
    min_rounds: int = 5
    calls_per_turn: int = 2


class Copy:
    """The floor's yardstick: ``Tensor.copy_`` between two preallocated, touched float32 buffers.

    Each buffer is four times the last-level cache, at least 64 MiB. Bytes read and bytes written
    both count. It takes its turns with the variants, so that it sees the same machine as they do.
    """

    def __init__(self) -> None:
        self.buffer_bytes = max(4 * environment.last_level_cache_bytes(), 64 * 2**20)
        self._source = torch.ones(self.buffer_bytes // 4)
        self._target = torch.zeros(self.buffer_bytes // 4)

    def step(self) -> tuple[float]:
        start = time.perf_counter()
        self._target.copy_(self._source)
        return (time.perf_counter() - start,)

    def record(self, seconds: Sequence[float]) -> dict[str, Any]:
        return {
            "buffer_bytes": self.buffer_bytes,
            "ms": spread(seconds),
            "bytes_per_second": 2 * self.buffer_bytes / statistics.median(seconds),
        }


def measure(case: Case, copy: Copy, settings: Settings) -> dict[str, Any]:
    """Checks, then times all variants of a case; the case's record for the result file."""
    right = parity.right_answers(case)
    verdicts = {v.key: parity.check(v, case, right[v.oracle]) for v in case.variants}
    del right
    accepted = [v for v in case.variants if verdicts[v.key].status == "ok"]
    peaks = {v.key: _peak_extra_bytes(v, case) for v in accepted}

    # One counter for all: whoever comes next takes the set that was used longest ago.
    turn = count()
    steps: dict[str, Step] = {"copy": copy.step}
    for variant in accepted:
        steps[variant.key] = partial(_timed_step, variant.loss, case, turn)
    times = interleave(steps, settings)

    copy_record = copy.record([seconds for (seconds,) in times.pop("copy")])
    ideal = {
        "forward": case.ideal.forward,
        "backward": case.ideal.backward,
        "total": case.ideal.total,
    }
    floor_ms = {part: 1e3 * b / copy_record["bytes_per_second"] for part, b in ideal.items()}
    return {
        "subject": case.subject,
        "shape": case.shape,
        "layout": case.layout,
        "dtype": str(case.dtype).removeprefix("torch."),
        "pairs": [
            {"student": list(a_s.shape), "teacher": list(a_t.shape)}
            for a_s, a_t in zip(case.inputs[0].student, case.inputs[0].teacher, strict=True)
        ],
        "input_sets": len(case.inputs),
        "upstream": case.upstream,
        "tolerance": parity.TOLERANCE[case.dtype],
        "ideal_bytes": ideal,
        "gradient_bytes": case.ideal.gradient,
        "copy": copy_record,
        "floor_ms": floor_ms,
        "variants": [
            {
                "key": v.key,
                "title": v.title,
                "peer": v.peer,
                **asdict(verdicts[v.key]),
                "peak_extra_bytes": peaks.get(v.key),
                **_stages(times.get(v.key)),
                "ratios": _ratios(times, v.key, floor_ms["total"]),
            }
            for v in case.variants
        ],
    }


def interleave(steps: dict[str, Step], settings: Settings) -> dict[str, list[tuple[float, ...]]]:
    """Gives every step its turn, in fixed order, round after round: slow drifts hit all alike.

    The first call of a turn is not counted: it finds the allocator and the caches as another
    variant left them.
    """
    times: dict[str, list[tuple[float, ...]]] = {key: [] for key in steps}
    collecting = gc.isenabled()
    gc.disable()
    try:
        start, rounds = time.perf_counter(), 0
        while rounds < settings.min_rounds or time.perf_counter() - start < settings.min_time:
            for key, step in steps.items():
                step()
                times[key] += [step() for _ in range(settings.calls_per_turn)]
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return times


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
    """Median, quartiles and minimum in milliseconds, and of how many; of two values at least."""
    values = [1e3 * s for s in seconds]
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "n": len(values)}


def _timed_step(loss: Loss, case: Case, turn: Iterator[int]) -> tuple[float, float]:
    """Seconds until the loss is there, and until fresh gradients are; not their release."""
    inputs = case.inputs[next(turn) % len(case.inputs)]
    start = time.perf_counter()
    value = loss(inputs.student, inputs.teacher)
    forward = time.perf_counter()
    gradients = torch.autograd.grad(value, inputs.student, torch.full_like(value, case.upstream))
    end = time.perf_counter()
    del gradients
    return forward - start, end - start


def _peak_extra_bytes(variant: Variant, case: Case) -> int:
    return peak_extra_bytes(lambda: parity.answer(variant.loss, case.inputs[0], case.upstream))


def _stages(times: list[tuple[float, ...]] | None) -> dict[str, dict[str, float | int] | None]:
    if times is None:
        return {"forward_ms": None, "backward_ms": None, "total_ms": None}
    return {
        "forward_ms": spread([forward for forward, _ in times]),
        "backward_ms": spread([total - forward for forward, total in times]),
        "total_ms": spread([total for _, total in times]),
    }


def _ratios(
    times: dict[str, list[tuple[float, ...]]], key: str, floor_ms: float
) -> dict[str, float | None] | None:
    """Of the medians of forward + backward; above 1 in a speedup is faster than that peer."""
    totals = {k: 1e3 * statistics.median(total for _, total in v) for k, v in times.items()}
    if key not in totals:
        return None
    return {
        "speedup_over_eager": totals[EAGER] / totals[key] if EAGER in totals else None,
        "speedup_over_compile": totals[COMPILED] / totals[key] if COMPILED in totals else None,
        "times_floor": totals[key] / floor_ms,
    }
