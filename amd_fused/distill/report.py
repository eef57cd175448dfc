"""What is left of an experiment: the summary tables, and `report.json`."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import amd_fused
from amd_fused.distill.config import Config
from amd_fused.distill.data import Dataset
from amd_fused.distill.experiment import METHODS, TEACHER
from amd_fused.distill.timing import Timing
from amd_fused.distill.train import Run
from amd_fused.distill.wrn import WideResNet, count_parameters, parse_wrn

# Raised whenever a field of report.json changes its meaning or goes away.
FORMAT = 1


@dataclass(frozen=True)
class Summary:
    """One method over its seeds: test accuracy in percent after the last epoch, and seconds a run.

    `std` is the sample standard deviation; None for a single seed.
    """

    method: str
    label: str
    mean: float
    std: float | None
    seconds: float


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """In the order of `METHODS`."""
    summaries = []
    for method in METHODS:
        chosen = [run for run in runs if run.method == method.key]
        accuracies = [run.test_accuracy for run in chosen]
        summaries.append(
            Summary(
                method.key,
                method.label,
                statistics.mean(accuracies),
                statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                statistics.mean(run.seconds for run in chosen),
            )
        )
    return summaries


def report(
    config: Config,
    data: Dataset,
    runs: Sequence[Run],
    timings: dict[str, dict[str, Timing]],
    default_backend: str,
    seconds: float,
) -> dict[str, Any]:
    """Everything that was set and measured, as plain JSON values; `read_me` explains the fields."""
    return {
        "format": FORMAT,
        "read_me": {
            "test_accuracy": "percent of the held-out images, after the last epoch",
            "epochs": "averages over an epoch's steps; ce, kd and feature before weighting",
            "timings": "milliseconds; auto is default_backend, interleaved with the reference",
            "null": "not a finite number, or not measured",
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": seconds,
        "config": asdict(config),
        "environment": environment(),
        "default_backend": default_backend,
        "data": {
            "name": data.name,
            "train_images": len(data.train),
            "student_train_images": config.train_size,
            "test_images": len(data.test),
            "mean": data.mean,
            "std": data.std,
        },
        "parameters": {
            name: parameters(name, data) for name in sorted({config.teacher, config.student})
        },
        "summary": [asdict(summary) for summary in summarise(runs)],
        "timings": {
            subject: {backend: asdict(timing) for backend, timing in by_backend.items()}
            for subject, by_backend in timings.items()
        },
        "runs": [{**asdict(run), "test_accuracy": run.test_accuracy} for run in runs],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Valid JSON also after a training that diverged: NaN and infinities become null."""
    path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parameters(network: str, data: Dataset) -> int:
    """Trainable parameters of a WideResNet for this data."""
    depth, width = parse_wrn(network)
    with torch.device("meta"):
        model = WideResNet(depth, width, num_classes=data.num_classes, in_channels=data.in_channels)
    return count_parameters(model)


def environment() -> dict[str, Any]:
    """Versions, processor, threads, backends and the git commit, of the checkout this runs from."""
    return {
        "amd_fused": amd_fused.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "backends": amd_fused.backends(),
    }


def _commit() -> str | None:
    """The hash, with `-dirty` if tracked files changed; None outside this project's checkout."""
    package = Path(amd_fused.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    # An installed package may lie in someone else's repository.
    if top is None or Path(top).resolve() != package.parent:
        return None
    return _git(package, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_tables(
    console: Console,
    config: Config,
    data: Dataset,
    runs: Sequence[Run],
    timings: dict[str, dict[str, Timing]],
    default_backend: str,
) -> None:
    """Accuracy by method, then time by backend."""
    table = Table(title=f"Test accuracy on {len(data.test)} held-out images", title_justify="left")
    for name in ("Method", "Network", "Trained on", "Accuracy (%)", "Seconds a run"):
        table.add_column(name, justify="left" if name in ("Method", "Network") else "right")
    for summary in summarise(runs):
        is_teacher = summary.method == TEACHER.key
        spread = "" if summary.std is None else f" ± {summary.std:.2f}"
        table.add_row(
            summary.label,
            f"WRN{config.teacher if is_teacher else config.student}",
            f"{len(data.train) if is_teacher else config.train_size} images",
            f"{summary.mean:.2f}{spread}",
            f"{summary.seconds:.1f}",
        )
    several = f"mean ± standard deviation over {config.seeds} seeds"
    seeds = several if config.seeds > 1 else "1 seed"
    table.caption = f"{seeds}; one image is {100 / len(data.test):.2f} %"
    console.print(table)
    if not timings:
        return
    console.print()
    table = Table(
        title=f"Time of AMD (g+l), {config.batch_size} images, {torch.get_num_threads()} threads",
        title_justify="left",
    )
    table.add_column("Milliseconds (median)")
    for name in (f"default ({default_backend})", "eager reference", "ratio"):
        table.add_column(name, justify="right")
    for subject, by_backend in timings.items():
        fused, eager = by_backend["auto"].median_ms, by_backend["reference"].median_ms
        table.add_row(subject, f"{fused:.2f}", f"{eager:.2f}", f"{eager / fused:.2f}")
    table.caption = f"{config.timing_steps} of each, interleaved; forward and backward"
    console.print(table)
