"""Time what a call costs the host: checks, dispatcher, autograd, launches; three tiny layer pairs.

The tensors are so small that the device's own work hides behind the host's. Besides whole calls,
the Triton backend is timed with its launches left out, which needs no GPU: what remains is all that
Python and PyTorch do for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any
from unittest import mock

import torch

import amd_fused
from amd_fused import _backends
from amd_fused.distill.clock import HostClock, Mark, Settings, Step, Times, interleave
from amd_fused.losses.amd.options import AMDOptions, operands
from benchmarks.cases import amd
from benchmarks.cases.shapes import Pair, Shape
from benchmarks.measure import parity
from benchmarks.measure.harness import named, stages, timed_pass
from benchmarks.measure.parity import Verdict
from benchmarks.measure.runner import Bench, Command, Entry
from benchmarks.measure.subject import ATTENTION, EAGER, Case, Inputs, Variant

SHAPE = Shape(
    "three tiny pairs",
    2,
    (Pair(4, 8, 8, 8), Pair(8, 16, 4, 4), Pair(16, 32, 2, 2)),
    "as from WRN16-3 to WRN16-1, a few positions each",
)
_SETTINGS = Settings(min_time=3.0, min_rounds=5, calls_per_turn=20)
COMMAND = Command("host", __doc__, settings={"cpu": _SETTINGS, "cuda": _SETTINGS})
# Timed with the launches left out: key and title.
UNLAUNCHED = {
    "triton_unlaunched": "amd_fused (triton), launches left out",
    "triton_launch_path": "of that, the backend's own part",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    return COMMAND.run([Entry(SHAPE.name, partial(measure, compiled=options.compile))], options)


def measure(bench: Bench, compiled: bool = False) -> dict[str, Any]:
    """Checks and times every way through the host's code that can be taken here."""
    case = Case(
        subject="host",
        shape=SHAPE.name,
        layout="nchw",
        dtype=torch.float32,
        inputs=[amd.features(SHAPE, "nchw", torch.float32, bench.device, seed=0)],
        ideal=SHAPE.ideal_bytes(torch.float32, bench.device),
        variants=[v for v in amd.variants(bench.device) if compiled or not v.compiles],
    )
    oracle = amd_fused.reference.amd_loss
    whole = partial(amd_fused.amd_loss, backend="triton")
    unlaunched = [Variant(*way, whole, oracle, peer=False) for way in UNLAUNCHED.items()]
    verdicts = parity.verdicts(case, parity.right_answers(case), bench.refusal)
    accepted = [v for v in case.variants if verdicts[v.key].status == "ok"]
    steps: dict[str, Step] = {v.key: timed_pass(v.loss, case, repeat(0)) for v in accepted}
    with switchable_launches() as (switch, missing):
        verdicts |= dict.fromkeys(UNLAUNCHED, Verdict("left out" if missing else "ok", missing))
        if not missing:
            ways = timed_pass(whole, case, repeat(0)), partial(_launch_path, case.inputs[0])
            steps |= {
                key: partial(switch.without, way) for key, way in zip(UNLAUNCHED, ways, strict=True)
            }
        times = interleave(steps, bench.settings, HostClock(bench.device))
    variants = [*case.variants, *unlaunched]
    per_turn = bench.settings.calls_per_turn
    records = [named(v, verdicts[v.key]) | _figures(times.get(v.key), per_turn) for v in variants]
    eager = next(record["total_us"] for record in records if record["key"] == EAGER)
    for record in records:
        compared = eager and record["total_us"] and record["part"] != ATTENTION
        ratio = record["total_us"]["median"] / eager["median"] if compared else None
        record["times_eager"] = ratio
    return {
        "subject": "host",
        "shape": SHAPE.name,
        "layer_pairs": len(SHAPE.pairs),
        "variants": records,
    }


class _Launchless:
    """Stands for a compiled kernel: launched, it does nothing."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: None


class Switch:
    """The Triton backend's operators, whose launches run or, within :meth:`without`, are left out.

    Of both sorts the second call and those after it are replays.
    """

    def __init__(self) -> None:
        self._left_out: dict[str, Any] = {}
        self._now: dict[str, Any] = {}

    def switchable(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: operator(*arguments, **self._now)

    def leave_out(self, replays: Any) -> None:
        """Where calls without launches are remembered."""
        self._left_out = {
            "submit": lambda launches: [_Launchless() for _ in launches],
            "replays": replays,
        }

    def without(self, step: Step, mark: Mark) -> None:
        self._now = self._left_out
        try:
            step(mark)
        finally:
            self._now = {}


@contextmanager
def switchable_launches() -> Iterator[tuple[Switch, str]]:
    """A switch for the launches of the Triton backend, which also takes CPU tensors meanwhile.

    And why there is nothing to switch: empty where Triton can be imported.
    """
    switch = Switch()
    try:
        from amd_fused.losses._common.triton.replay import Replays
        from amd_fused.losses.amd.triton import launcher as kernels
    except ImportError as error:
        yield switch, f"Triton cannot be imported ({error})"
        return
    switch.leave_out(Replays())
    with (
        # Without a GPU the backend is open to CPU tensors only for Triton's interpreter, which
        # never gets to see a kernel here.
        mock.patch.dict(os.environ, {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}),
        mock.patch.object(kernels, "amd_fwd_triton", switch.switchable(kernels.amd_fwd_triton)),
        mock.patch.object(kernels, "amd_bwd_triton", switch.switchable(kernels.amd_bwd_triton)),
    ):
        _backends.triton_error.cache_clear()
        try:
            yield switch, ""
        finally:
            _backends.triton_error.cache_clear()


def _launch_path(inputs: Inputs, mark: Mark) -> None:
    """What the operators of the Triton backend run, with default options, called directly."""
    from amd_fused.losses.amd.triton import launcher as kernels

    layers = len(SHAPE.pairs)
    told = operands(AMDOptions(), [*inputs.student, *inputs.teacher])
    needs_grad = [True] * layers + [False] * layers
    loss, d_f = kernels.amd_fwd_triton(inputs.student, inputs.teacher, told, needs_grad)
    mark()
    gradients = kernels.amd_bwd_triton(loss, inputs.student, d_f)
    mark()
    del gradients


def _figures(times: Times | None, calls_per_turn: int) -> dict[str, Any]:
    """Microseconds of each stage, and of its rounds milliseconds."""
    # `stages` gives milliseconds of seconds.
    thousandfold = times and [tuple(1e3 * mark for mark in call) for call in times]
    found = stages(thousandfold, calls_per_turn)
    del found["rounds_ms"]
    rounds = stages(times, calls_per_turn)["rounds_ms"]
    return {f"{key.removesuffix('_ms')}_us": value for key, value in found.items()} | {
        "rounds_ms": rounds
    }


def parser() -> argparse.ArgumentParser:
    made = COMMAND.parser()
    made.add_argument(
        "--compile", action="store_true", help="time torch.compile of the reference too"
    )
    return made
