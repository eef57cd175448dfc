"""What commands print: results, metrics, and the backends that run here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import amd_fused
from amd_fused.distill.clock import Mark, Settings, clock_of, interleave

# The layers of a training step of WRN16-1 under WRN16-3 on 32x32 images, a batch of 128.
_LAYERS = ((16, 48, 32), (32, 96, 16), (64, 192, 8))
_BATCH = 128
_TURNS = Settings(min_time=0.0, min_rounds=7, calls_per_turn=1)


def print_result(path: Path, result: Mapping[str, Any]) -> None:
    """Where a run ended."""
    if not is_main_process():
        return
    print_metrics(result["test"])
    print(f"Run: {path}")
    if (path / "report.html").exists():
        print(f"Report: {path / 'report.html'}")


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Of all test images."""
    if not is_main_process():
        return
    shown = {"top1": "top-1 {:.2f} %", "top5": "top-5 {:.2f} %", "nll": "NLL {:.4f}"}
    shown["ece"] = "ECE {:.2f} %"
    print("Test: " + ", ".join(text.format(metrics[name]) for name, text in shown.items()))


def print_choices(path: Path, tuning: Mapping[str, Any]) -> None:
    """What `amd-fused tune` chose, and where all of it is written."""
    if not is_main_process():
        return
    for method, settings in tuning["chosen"].items():
        print(f"{method}: " + ", ".join(f"{name} {value:g}" for name, value in settings.items()))
    print(f"Written: {path}")


def print_backends(timed: bool) -> None:
    """A line a backend: whether it runs here or why not and, if asked, what the AMD loss costs."""
    states = amd_fused.backends()
    milliseconds = _milliseconds([n for n, s in states.items() if s == "usable"]) if timed else {}
    width = max(map(len, states))
    for name, state in states.items():
        cost = ""
        if name in milliseconds:
            ratio = milliseconds["reference"] / milliseconds[name]
            cost = f"  {milliseconds[name]:8.2f} ms, {ratio:.1f} times as fast as eager PyTorch"
        print(f"{name:{width}}  {state}{cost}")
    if timed:
        shapes = ", ".join(f"{c_s}/{c_t}x{size}x{size}" for c_s, c_t, size in _LAYERS)
        print(f"The AMD loss forward and backward, float32, batch {_BATCH}: {shapes}; medians.")


def is_main_process() -> bool:
    """Whether this is the one process that prints results and writes reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _milliseconds(names: list[str]) -> dict[str, float]:
    """Medians of forward + backward, taken in turns, on the device that each backend is for."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = {"triton", "cuda"}
    names = [n for n in names if n == "reference" or (n in on_gpu) == (device.type == "cuda")]
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    student = [draw(_BATCH, c_s, size, size).requires_grad_() for c_s, _, size in _LAYERS]
    teacher = [draw(_BATCH, c_t, size, size) for _, c_t, size in _LAYERS]
    steps = {name: partial(_step, name, student, teacher) for name in names}
    times = interleave(steps, _TURNS, clock_of(device))
    return {name: 1e3 * median(total for (total,) in calls) for name, calls in times.items()}


def _step(
    backend: str, student: list[torch.Tensor], teacher: list[torch.Tensor], mark: Mark
) -> None:
    loss = amd_fused.amd_loss(student, teacher, backend=backend)
    gradients = torch.autograd.grad(loss, student)
    mark()
    del gradients
