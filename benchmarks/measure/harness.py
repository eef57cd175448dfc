"""Times variants of one computation so that the figures can be believed.

:func:`measure` refuses the variants of a :class:`~benchmarks.measure.subject.Case` whose loss or
gradient is wrong, times the others in turns together with a plain copy, and gives the record that
is written as JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from typing import Any

import torch

from amd_fused.distill.clock import HostClock, Mark, Settings, Step, Times, clock_of, interleave
from benchmarks.measure import environment, graphs, parity, trace
from benchmarks.measure.parity import Verdict
from benchmarks.measure.subject import COMPILED, EAGER, WHOLE, Case, Flops, Loss, Variant

# Key of a variant's graph among the steps that take turns.
_GRAPH = "{} in a graph"
_HOST_CALLS = 10
_CUDA_COPY_BYTES = 2**30
_STAGES = ("forward", "backward", "total")


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
    verdicts = parity.verdicts(case, right, refusal)
    accepted = [v for v in case.variants if verdicts[v.key].status == "ok"]
    replays = {
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
    product = Product(case.flops, case.device) if case.flops else None
    yardsticks = {"copy": copy.step, **({"product": product.step} if product else {})}
    calls: dict[str, Step] = {v.key: timed_pass(v.loss, case, turn) for v in accepted}
    in_graphs = {
        _GRAPH.format(key): replay.step
        for key, (_, replay) in replays.items()
        if replay is not None
    }
    times = interleave({**yardsticks, **calls, **in_graphs}, settings, clock_of(case.device))
    # On a GPU, the host's part of a call; on a CPU it is the call.
    idle = HostClock(case.device)
    host = {
        key: spread([call[-1] for call in idle.turn(step, _HOST_CALLS)])
        for key, step in (calls.items() if case.device.type == "cuda" else ())
    }

    per_turn = settings.calls_per_turn
    copied = copy.record(_totals(times["copy"]), per_turn)
    ideal = _parts(case.ideal.forward, case.ideal.backward)
    floor = {part: 1e3 * ideal[part] / copied["bytes_per_second"] for part in ideal}
    flops, speed = None, None
    if product and case.flops:
        flops = _parts(case.flops.forward, case.flops.backward)
        speed = product.record(_totals(times["product"]), per_turn)
        of_products = {p: 1e3 * flops[p] / speed["flops_per_second"] for p in flops}
        floor = _parts(*(max(floor[p], of_products[p]) for p in ("forward", "backward")))
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
        "copy": copied,
        "floor_ms": floor,
        "flops": flops,
        "product": speed,
        "note": case.note,
        "variants": [
            {
                **named(v, verdicts[v.key]),
                "peak_extra_bytes": peaks.get(v.key),
                "launches": len(kernels.get(v.key) or ()) or None,
                # A peer has thousands.
                "kernels": None if v.peer else kernels.get(v.key),
                **stages(times.get(v.key), per_turn),
                "host_ms": host.get(v.key),
                "graph": _graph(v.key, replays, times, settings, len(case.inputs), floor["total"]),
                "ratios": _ratios(times, v, floor["total"]),
            }
            for v in case.variants
        ],
    }


def timed_pass(loss: Loss, case: Case, turn: Iterator[int]) -> Step:
    """Marks when the loss is there, and when fresh gradients are; not their release."""

    def step(mark: Mark) -> None:
        inputs = case.inputs[next(turn) % len(case.inputs)]
        value = loss(*inputs.arguments)
        mark()
        gradients = torch.autograd.grad(value, inputs.student, case.upstream_of(value))
        mark()
        del gradients

    return step


def named(variant: Variant, verdict: Verdict) -> dict[str, Any]:
    """What the record of a variant begins with, in every command."""
    identity = {name: getattr(variant, name) for name in ("key", "title", "peer", "part")}
    return identity | asdict(verdict)


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


def stages(times: Times | None, calls_per_turn: int) -> dict[str, Any]:
    """Times of (forward, forward and backward) as a record has them; None of what was not timed."""
    if times is None:
        return dict.fromkeys((*(f"{stage}_ms" for stage in _STAGES), "rounds_ms"))
    parts = zip(*((forward, total - forward, total) for forward, total in times), strict=True)
    seconds = dict(zip(_STAGES, parts, strict=True))
    return {
        **{f"{stage}_ms": spread(values) for stage, values in seconds.items()},
        "rounds_ms": {stage: by_round(values, calls_per_turn) for stage, values in seconds.items()},
    }


def _parts(forward: float, backward: float) -> dict[str, float]:
    return {"forward": forward, "backward": backward, "total": forward + backward}


def _totals(times: Times) -> list[float]:
    return [call[-1] for call in times]


def _graph(
    key: str,
    replays: dict[str, tuple[Verdict, graphs.Replay | None]],
    times: dict[str, Times],
    settings: Settings,
    sets: int,
    floor_ms: float,
) -> dict[str, Any] | None:
    if key not in replays:
        return None
    verdict, _ = replays[key]
    # A replay is a call on each set of inputs.
    calls = [seconds / sets for seconds in _totals(times.get(_GRAPH.format(key), []))]
    total = spread(calls) if calls else None
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "total_ms": total,
        "rounds_ms": by_round(calls, settings.calls_per_turn) if calls else None,
        "times_floor": total["median"] / floor_ms if total else None,
    }


def _ratios(
    times: dict[str, Times], variant: Variant, floor_ms: float
) -> dict[str, float | None] | None:
    """Of the medians of forward + backward; above 1 in a speedup is faster than that peer."""
    totals = {key: 1e3 * statistics.median(_totals(calls)) for key, calls in times.items()}
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
