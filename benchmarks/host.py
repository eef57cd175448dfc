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
from typing import Any
from unittest import mock

import torch

import amd_fused
from amd_fused import _backends
from amd_fused.losses.amd.options import AMDOptions, operands
from benchmarks import amd, parity, results, table
from benchmarks.clock import HostClock, Mark, Step
from benchmarks.harness import Settings, by_round, interleave, spread
from benchmarks.parity import Verdict
from benchmarks.shapes import Pair, Shape
from benchmarks.subject import ATTENTION, EAGER, WHOLE, Case, Loss

SHAPE = Shape(
    "three tiny pairs",
    2,
    (Pair(4, 8, 8, 8), Pair(8, 16, 4, 4), Pair(16, 32, 2, 2)),
    "as from WRN16-3 to WRN16-1, a few positions each",
)
LEGEND = (
    "us: microseconds of the host, medians; the device is idle when a call begins. x eager: that "
    "time over the eager reference's."
)
HEADER = ("variant", "forward us", "backward us", "fwd+bwd us (quartiles)", "x eager")
# Timed with the launches left out: key and title.
UNLAUNCHED = {
    "triton_unlaunched": "amd_fused (triton), launches left out",
    "triton_launch_path": "of that, the backend's own part",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for. 1 if a variant of ours was wrong or failed, else 0."""
    options = parser().parse_args(arguments)
    settings = Settings(options.min_time, min_rounds=5, calls_per_turn=20)
    result = results.new("host", options.device, settings=vars(settings), cases=[])
    path = results.path_of("host", result, options.output)
    print(table.render_environment(result["environment"]), LEGEND, sep="\n\n", end="\n\n")
    record = measure(options.device, settings, options.compile)
    result |= {"cases": [record], "finished": True}
    results.write(result, path)
    print(render(record), f"written to {path}", sep="\n\n")
    ours = [v["status"] for v in record["variants"] if not v["peer"]]
    return 1 if {"refused", "failed"} & set(ours) else 0


def measure(device: torch.device, settings: Settings, compiled: bool = False) -> dict[str, Any]:
    """Checks and times every way through the host's code that can be taken here."""
    case = Case(
        subject="host",
        shape=SHAPE.name,
        layout="nchw",
        dtype=torch.float32,
        inputs=[amd.features(SHAPE, "nchw", torch.float32, device, seed=0)],
        ideal=SHAPE.ideal_bytes(torch.float32, device),
        variants=[v for v in amd.variants(device) if compiled or not v.compiles],
    )
    right = parity.right_answers(case)
    verdicts = {v.key: parity.check(v, case, right[v.oracle]) for v in case.variants}
    titles = {v.key: v.title for v in case.variants}
    with _switchable_launches() as (switch, missing):
        steps: dict[str, Step] = {
            v.key: partial(_step, case, v.loss, switch, True)
            for v in case.variants
            if verdicts[v.key].status == "ok"
        }
        whole = partial(amd_fused.amd_loss, backend="triton")
        unlaunched = (
            partial(_step, case, whole, switch, False),
            partial(_launch_path, case, switch),
        )
        for (key, title), step in zip(UNLAUNCHED.items(), unlaunched, strict=True):
            titles[key] = title
            verdicts[key] = Verdict("left out", missing) if missing else Verdict("ok")
            if not missing:
                steps[key] = step
        times = interleave(steps, settings, HostClock(device))
    peers = {v.key for v in case.variants if v.peer}
    parts = {v.key: v.part for v in case.variants}
    eager = spread([total for *_, total in times[EAGER]])["median"] if EAGER in times else None
    return {
        "subject": "host",
        "shape": SHAPE.name,
        "layer_pairs": len(SHAPE.pairs),
        "variants": [
            {
                "key": key,
                "title": title,
                "peer": key in peers,
                "part": parts.get(key, WHOLE),
                "status": verdicts[key].status,
                "reason": verdicts[key].reason,
                **_figures(
                    times.get(key),
                    settings.calls_per_turn,
                    None if parts.get(key) == ATTENTION else eager,
                ),
            }
            for key, title in titles.items()
        ],
    }


def render(record: dict[str, Any]) -> str:
    title = f"### {record['subject']}: {record['shape']}"
    rows, notes = [], []
    for v in record["variants"]:
        if v["status"] != "ok":
            rows.append((v["title"], v["status"], "-", "-", "-"))
            notes.append(f"{v['title']}: {v['status']}, {v['reason']}")
            continue
        total = v["total_us"]
        rows.append(
            (
                v["title"],
                f"{v['forward_us']['median']:.0f}",
                f"{v['backward_us']['median']:.0f}",
                f"{total['median']:.0f} ({total['q1']:.0f}-{total['q3']:.0f})",
                "-" if v["times_eager"] is None else f"{v['times_eager']:.3f}",
            )
        )
    return "\n".join([title, "", *table.lines(HEADER, rows), *([""] if notes else []), *notes])


class _Launchless:
    """Stands for a compiled kernel: launched, it does nothing."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: None


class _Switch:
    """The Triton backend's operators, whose launches run or, switched off, are left out.

    Of both sorts the second call and those after it are replays.
    """

    def __init__(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        self._forward, self._backward = forward, backward
        self._left_out: dict[str, Any] = {}
        self.on = True

    def forward(self, *args: Any) -> Any:
        return self._forward(*args, **({} if self.on else self._left_out))

    def backward(self, *args: Any) -> Any:
        return self._backward(*args, **({} if self.on else self._left_out))

    def leave_out(self, replays: Any) -> None:
        """Where calls without launches are remembered."""
        self._left_out = {
            "submit": lambda launches: [_Launchless() for _ in launches],
            "replays": replays,
        }


@contextmanager
def _switchable_launches() -> Iterator[tuple[_Switch, str]]:
    """A switch for the launches of the Triton backend, which also takes CPU tensors meanwhile.

    And why there is nothing to switch: empty where Triton can be imported.
    """
    try:
        from amd_fused.losses._common.triton.replay import Replays
        from amd_fused.losses.amd.triton import launcher as kernels
    except ImportError as error:
        yield _Switch(_nothing, _nothing), f"Triton cannot be imported ({error})"
        return
    switch = _Switch(kernels.amd_fwd_triton, kernels.amd_bwd_triton)
    switch.leave_out(Replays())
    with (
        # Without a GPU the backend is open to CPU tensors only for Triton's interpreter, which
        # never gets to see a kernel here.
        mock.patch.dict(os.environ, {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}),
        mock.patch.object(kernels, "amd_fwd_triton", switch.forward),
        mock.patch.object(kernels, "amd_bwd_triton", switch.backward),
    ):
        _backends.triton_error.cache_clear()
        try:
            yield switch, ""
        finally:
            _backends.triton_error.cache_clear()


def _nothing(*args: Any) -> None:
    raise AssertionError("there is no Triton to launch anything")


def _step(case: Case, loss: Loss, switch: _Switch, launching: bool, mark: Mark) -> None:
    inputs = case.inputs[0]
    switch.on = launching
    value = loss(*inputs.arguments)
    mark()
    gradients = torch.autograd.grad(value, inputs.student, case.upstream_of(value))
    mark()
    del gradients


def _launch_path(case: Case, switch: _Switch, mark: Mark) -> None:
    """What the operators of the Triton backend run, with default options, called directly."""
    from amd_fused.losses.amd.triton import launcher as kernels

    switch.on = False
    inputs, layers = case.inputs[0], len(SHAPE.pairs)
    told = operands(AMDOptions(), [*inputs.student, *inputs.teacher])
    needs_grad = [True] * layers + [False] * layers
    loss, d_f = kernels.amd_fwd_triton(inputs.student, inputs.teacher, told, needs_grad)
    mark()
    gradients = kernels.amd_bwd_triton(loss, inputs.student, d_f)
    mark()
    del gradients


def _figures(
    times: list[tuple[float, ...]] | None, calls_per_turn: int, eager_ms: float | None
) -> dict[str, Any]:
    if times is None:
        return dict.fromkeys(("forward_us", "backward_us", "total_us", "rounds_ms", "times_eager"))
    stages = {
        "forward": [forward for forward, _ in times],
        "backward": [total - forward for forward, total in times],
        "total": [total for _, total in times],
    }
    # `spread` gives milliseconds.
    figures = {f"{stage}_us": spread([1e3 * s for s in values]) for stage, values in stages.items()}
    return {
        **figures,
        "rounds_ms": {s: by_round(values, calls_per_turn) for s, values in stages.items()},
        "times_eager": 1e-3 * figures["total_us"]["median"] / eager_ms if eager_ms else None,
    }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks host", description=__doc__)
    made.add_argument(
        "--min-time", type=float, default=3.0, metavar="S", help="seconds in all (%(default)g)"
    )
    made.add_argument(
        "--compile", action="store_true", help="time torch.compile of the reference too"
    )
    results.add_arguments(made)
    return made
