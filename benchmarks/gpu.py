"""Run everything that needs a GPU: build, tests, benchmarks, compute-sanitizer; a report last.

For a machine that has PyTorch with CUDA and where nothing can be installed. A step that fails stops
no other; the exit status tells. With --dry-run the same steps run on a CPU, in Triton's interpreter
and with tiny shapes, which shows that they run and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, host, report, results, steps, table, training
from benchmarks.results import beside
from benchmarks.steps import SECONDS, Outcome, Step

TESTS = "tests/gpu"
SMALL_SET = f"{TESTS}/small_set.py"
STEPS = (
    *("build", "tests", "host", "training"),
    *("small-set", "memcheck", "racecheck", "initcheck", "losses", "scaling", "report"),
)
_ARGUMENTS = {
    "host": ("--device=cuda",),
    "losses": (
        *("--device=cuda", f"--seconds={SECONDS}", "--dtypes", "float32", "bfloat16"),
        *("--shapes", "cifar-wrn", "imagenet-resnet", "detection"),
    ),
    "scaling": ("--device=cuda", f"--seconds={SECONDS}", "--min-time=1"),
    # No time for compiled peers, which the losses' table has.
    "training": ("--device=cuda", "--seconds=0", "--min-time=5"),
}
_DRY_ARGUMENTS = {
    "host": ("--device=cpu", "--min-time=0"),
    "losses": (
        *("--device=cpu", "--seconds=0", "--min-time=0"),
        *("--shapes", "tiny", "--layouts", "channels_last"),
        *("--variants", "amd_fused", "eager", "compile", "at"),
    ),
    "scaling": ("--device=cpu", "--seconds=0", "--min-time=0", "--tiny"),
    "training": ("--device=cpu", "--settings=tiny-amp", "--seconds=0", "--min-time=0"),
}
_DRY_VARIABLES = {
    "TRITON_INTERPRET": "1",
    "AMD_FUSED_BACKEND": "triton",
    "AMD_FUSED_TEST_DEVICE": "cpu",
}
_SANITIZER_IN_TOOLKIT = "/usr/local/cuda/bin/compute-sanitizer"
# Of all kernels, ours.
_SANITIZER_OPTIONS = ("--error-exitcode", "1", "--kernel-regex", "kns=amd_")
# What it prints on machines that do not let it at the device.
_SANITIZER_REFUSED = "Device not supported"
# A machine may be lent for ten minutes.
_ALL_SECONDS = 570.0
# A dry run measures nothing, so that its limits only end what hangs, on the slowest machine too.
_DRY_PATIENCE = 30
# Of the GPU's memory, for each process that runs tests.
_TEST_BYTES = 10 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps that the command line asks for. 1 if one of them failed, else 0."""
    options = _parser().parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("benchmarks gpu: torch sees no CUDA device here; --dry-run needs none")
        return 1
    machine = environment.describe(torch.device("cpu" if options.dry_run else "cuda"))
    options.out.mkdir(parents=True, exist_ok=True)
    prefix = options.out.resolve() / environment.file_stem(machine)
    patience = _DRY_PATIENCE if options.dry_run else 1
    chosen = [
        replace(step, seconds=step.seconds * patience)
        for step in all_steps(options.dry_run, prefix)
        if step.name in options.steps
    ]
    with prefix.with_name(f"{prefix.name}.log").open("w", buffering=1) as log:
        outcomes = steps.run_all(chosen, options.seconds * patience, log)
    summary = {
        "schema": results.SCHEMA,
        "command": "gpu",
        "environment": machine,
        "dry_run": options.dry_run,
        "steps": [asdict(outcome) for outcome in outcomes],
    }
    results.write(summary, beside(prefix, "summary.json"))
    print("", table.render_environment(machine), "", *render(outcomes, prefix), sep="\n")
    print(f"\nwritten to {prefix}*")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def render(outcomes: Sequence[Outcome], prefix: Path) -> list[str]:
    """The summary: what the benchmarks measured, then a line a step."""
    shown: dict[str, Callable[[list[dict[str, Any]]], str]] = {
        "losses": table.render_ours,
        "host": lambda cases: "\n\n".join(map(host.render, cases)),
        "training": lambda cases: "\n\n".join(map(training.render, cases)),
    }
    blocks = []
    for name, show in shown.items():
        path = beside(prefix, f"{name}.json")
        if path.exists():
            blocks += [show(json.loads(path.read_text())["cases"]), ""]
    return [*blocks, *steps.render(outcomes)]


def all_steps(dry: bool, prefix: Path) -> list[Step]:
    """In the order of ``STEPS``; the losses take the time that is left, for compiling peers.

    Besides what is reserved for how their cost grows, and for the report of what was measured.
    """
    arguments = _DRY_ARGUMENTS if dry else _ARGUMENTS
    variables = _DRY_VARIABLES if dry else {}
    not_dry = "dry run" if dry else ""

    def benchmark(name: str, seconds: float, **options: Any) -> Step:
        output = str(beside(prefix, f"{name}.json"))
        command = (sys.executable, "-m", "benchmarks", name, "--output", output, *arguments[name])
        return Step(name, command, seconds, **options)

    def sanitizer(tool: str) -> Step:
        program = shutil.which("compute-sanitizer") or shutil.which(_SANITIZER_IN_TOOLKIT) or ""
        missing = not_dry or ("" if program else "compute-sanitizer is not installed")
        command = (program, *_SANITIZER_OPTIONS, "--tool", tool, sys.executable, SMALL_SET)
        return Step(tool, command, 60, missing, refused=_SANITIZER_REFUSED)

    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    tests = (*_pytest(dry), f"--junitxml={beside(prefix, 'tests.xml')}")
    measured = [str(beside(prefix, f"{name}.json")) for name in _ARGUMENTS]
    reported = (sys.executable, "-m", "benchmarks", "report", "--skip-missing", *measured)
    return [
        # The CUDA kernels, where there is nvcc, and the C++ ones. What is missing, tests say.
        Step("build", build, 120, not_dry, counts=False),
        Step("tests", tests, 180, variables=variables),
        # No variables: its launches are left out where there is no GPU.
        benchmark("host", 30),
        benchmark("training", 95, variables=variables),
        # Without the sanitizer first, which then finds the kernels compiled.
        Step("small-set", (sys.executable, SMALL_SET), 30, variables=variables),
        sanitizer("memcheck"),
        sanitizer("racecheck"),
        sanitizer("initcheck"),
        benchmark("losses", _ALL_SECONDS, reserved=60.0, variables=variables),
        benchmark("scaling", 75, reserved=45.0),
        Step("report", (*reported, "--out", str(prefix.parent)), 30, reserved=report.SECONDS),
    ]


def _pytest(dry: bool) -> tuple[str, ...]:
    # Warnings of whatever versions are installed here are no errors of ours.
    options = ("-q", "-W", "default", "--durations=5", "-p", "no:cacheprovider")
    if not dry and importlib.util.find_spec("xdist") is not None:
        # Most of the time goes into compiling kernels, which one process does one by one.
        memory = torch.cuda.get_device_properties("cuda").total_memory
        workers = min(12, os.cpu_count() or 1, max(1, memory // _TEST_BYTES))
        # It warns that it does nothing beside the other plugin.
        options += ("-n", str(workers), "-p", "no:benchmark")
    return (sys.executable, "-m", "pytest", TESTS, *options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=results.FOLDER, metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=STEPS, help="default: all of them"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=_ALL_SECONDS,
        metavar="S",
        help=f"for all steps together (%(default)g), {_DRY_PATIENCE} times that in a dry run",
    )
    return parser
