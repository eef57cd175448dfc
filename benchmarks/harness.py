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

from benchmarks import environment, graphs, parity, trace
from benchmarks.clock import Clock, HostClock, Mark, Step, clock_of
from benchmarks.parity import Answer, Verdict
from benchmarks.shapes import Flops
from benchmarks.subject import COMPILED, EAGER, WHOLE, Case, Loss, Variant

# Key of a variant's graph among the steps that take turns.
_GRAPH = "{} in a graph"
_HOST_CALLS = 10
_CUDA_COPY_BYTES = 2**30


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

    Each buffer is four times the last-level cache and at least 64 MiB on a CPU, 1 GiB on a GPU.
    Bytes read and bytes written both count. It takes its turns with the variants, so that it sees
    the same machine as they do.
    """

    def __init__(self, device: torch.device) -> None:
        least = _CUDA_COPY_BYTES if device.type == "cuda" else 64 * 2**20
        self.buffer_bytes = max(4 * environment.last_level_cache_bytes(device), least)
        self._source = torch.ones(self.buffer_bytes // 4, device=device)
        self._target = torch.zeros(self.buffer_bytes // 4, device=device)

    def step(self, mark: Mark) -> None:
        self._target.copy_(self._source)
        mark()

    def record(self, seconds: Sequence[float], calls_per_turn: int) -> dict[str, Any]:
        return {
            "buffer_bytes": self.buffer_bytes,
            "ms": spread(seconds),
            "rounds_ms": by_round(seconds, calls_per_turn),
            "bytes_per_second": 2 * self.buffer_bytes / statistics.median(seconds),
        }


class Product:
    """The floor's other yardstick, where matrix products count: a plain float32 ``torch.mm``."""

    def __init__(self, flops: Flops, device: torch.device) -> None:
        m, k, n = flops.product
        self._flops = 2 * m * k * n
        self._a, self._b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        self._out = torch.empty(m, n, device=device)

    def step(self, mark: Mark) -> None:
        torch.mm(self._a, self._b, out=self._out)
        mark()

    def record(self, seconds: Sequence[float], calls_per_turn: int) -> dict[str, Any]:
        return {
            "ms": spread(seconds),
            "rounds_ms": by_round(seconds, calls_per_turn),
            "flops_per_second": self._flops / statistics.median(seconds),
        }


def measure(
    case: Case,
    copy: Copy,
    settings: Settings,
    refusal: Callable[[Variant], str] = lambda variant: "",
) -> dict[str, Any]:
    """Checks, then times all variants of a case; the case's record for the result file.

    ``refusal(variant)`` is asked for a reason to leave the variant out; empty if there is none.
    """
    right = parity.right_answers(case)
    verdicts = {v.key: _verdict(v, case, right[v.oracle], refusal(v)) for v in case.variants}
    accepted = [v for v in case.variants if verdicts[v.key].status == "ok"]
    captured = {
        v.key: graphs.captured(v, case, right[v.oracle])
        for v in accepted
        if case.device.type == "cuda"
    }
    del right
    passes = {v.key: partial(parity.answer, v.loss, case, case.inputs[0]) for v in accepted}
    peaks = {key: trace.peak_extra_bytes(once, case.device) for key, once in passes.items()}
    kernels = {key: trace.kernels(once, case.device) for key, once in passes.items()}

    # One counter for all: whoever comes next takes the set that was used longest ago.
    turn = count()
    steps: dict[str, Step] = {"copy": copy.step}
    product = Product(case.flops, case.device) if case.flops else None
    if product:
        steps["product"] = product.step
    for variant in accepted:
        steps[variant.key] = partial(_step, variant.loss, case, turn)
    for key, (_, replay) in captured.items():
        if replay is not None:
            steps[_GRAPH.format(key)] = replay.step
    times = interleave(steps, settings, clock_of(case.device))
    host = _host_times({v.key: steps[v.key] for v in accepted}, case.device)

    calls = settings.calls_per_turn
    copy_record = copy.record([seconds for (seconds,) in times.pop("copy")], calls)
    ideal = _parts(case.ideal.forward, case.ideal.backward)
    floor_ms = {part: 1e3 * b / copy_record["bytes_per_second"] for part, b in ideal.items()}
    products: dict[str, Any] = {"flops": None, "product": None}
    if product and case.flops:
        flops = _parts(case.flops.forward, case.flops.backward)
        speed = product.record([seconds for (seconds,) in times.pop("product")], calls)
        products = {"flops": flops, "product": speed}
        longest = {
            part: max(floor_ms[part], 1e3 * flops[part] / speed["flops_per_second"])
            for part in ("forward", "backward")
        }
        floor_ms = _parts(**longest)
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
        **products,
        "note": case.note,
        "variants": [
            {
                "key": v.key,
                "title": v.title,
                "peer": v.peer,
                "part": v.part,
                **asdict(verdicts[v.key]),
                "peak_extra_bytes": peaks.get(v.key),
                "launches": len(kernels.get(v.key) or ()) or None,
                # A peer has thousands.
                "kernels": None if v.peer else kernels.get(v.key),
                **_stages(times.get(v.key), calls),
                "host_ms": host.get(v.key),
                "graph": _graph(v.key, captured, times, calls, len(case.inputs), floor_ms["total"]),
                "ratios": _ratios(times, v, floor_ms["total"]),
            }
            for v in case.variants
        ],
    }


def interleave(
    steps: dict[str, Step], settings: Settings, clock: Clock
) -> dict[str, list[tuple[float, ...]]]:
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
                times[key] += clock.turn(step, settings.calls_per_turn)
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


def by_round(seconds: Sequence[float], calls_per_turn: int) -> list[float]:
    """Milliseconds of each round of :func:`interleave`, in order: the median of its calls.

    Five digits, which is finer than any clock here.
    """
    starts = range(0, len(seconds), calls_per_turn)
    turns = [statistics.median(seconds[i : i + calls_per_turn]) for i in starts]
    return [float(f"{1e3 * turn:.5g}") for turn in turns]


def _parts(forward: float, backward: float) -> dict[str, float]:
    return {"forward": forward, "backward": backward, "total": forward + backward}


def _verdict(variant: Variant, case: Case, right: Answer, refusal: str) -> Verdict:
    return Verdict("left out", refusal) if refusal else parity.check(variant, case, right)


def _step(loss: Loss, case: Case, turn: Iterator[int], mark: Mark) -> None:
    """Marks when the loss is there, and when fresh gradients are; not their release."""
    inputs = case.inputs[next(turn) % len(case.inputs)]
    value = loss(*inputs.arguments)
    mark()
    gradients = torch.autograd.grad(value, inputs.student, case.upstream_of(value))
    mark()
    del gradients


def _host_times(steps: dict[str, Step], device: torch.device) -> dict[str, Any]:
    """On a GPU, the host's part of a call; on a CPU it is the call."""
    if device.type != "cuda":
        return {}
    clock = HostClock(device)
    return {
        key: spread([total for *_, total in clock.turn(step, _HOST_CALLS)])
        for key, step in steps.items()
    }


def _graph(
    key: str,
    captured: dict[str, tuple[Verdict, graphs.Replay | None]],
    times: dict[str, list[tuple[float, ...]]],
    calls_per_turn: int,
    sets: int,
    floor_ms: float,
) -> dict[str, Any] | None:
    if key not in captured:
        return None
    verdict, _ = captured[key]
    # A replay is a call on each set of inputs.
    calls = [seconds / sets for (seconds,) in times.get(_GRAPH.format(key), ())]
    total = spread(calls) if calls else None
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "total_ms": total,
        "rounds_ms": by_round(calls, calls_per_turn) if calls else None,
        "times_floor": total["median"] / floor_ms if total else None,
    }


def _stages(times: list[tuple[float, ...]] | None, calls_per_turn: int) -> dict[str, Any]:
    if times is None:
        return dict.fromkeys(("forward_ms", "backward_ms", "total_ms", "rounds_ms"))
    stages = {
        "forward": [forward for forward, _ in times],
        "backward": [total - forward for forward, total in times],
        "total": [total for _, total in times],
    }
    return {
        **{f"{stage}_ms": spread(seconds) for stage, seconds in stages.items()},
        "rounds_ms": {s: by_round(seconds, calls_per_turn) for s, seconds in stages.items()},
    }


def _ratios(
    times: dict[str, list[tuple[float, ...]]], variant: Variant, floor_ms: float
) -> dict[str, float | None] | None:
    """Of the medians of forward + backward; above 1 in a speedup is faster than that peer."""
    totals = {k: 1e3 * statistics.median(call[-1] for call in v) for k, v in times.items()}
    if variant.key not in totals:
        return None
    total = totals[variant.key]
    # These peers compute the whole loss.
    whole = totals if variant.part == WHOLE else {}
    return {
        "speedup_over_eager": whole[EAGER] / total if EAGER in whole else None,
        "speedup_over_compile": whole[COMPILED] / total if COMPILED in whole else None,
        "times_floor": total / floor_ms,
    }
