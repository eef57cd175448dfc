"""Run what needs a GPU, in two stages: build, tests, benchmarks, compute-sanitizer.

For a machine that has PyTorch with CUDA and where nothing can be installed. A step that fails stops
no other; the exit status tells. With --dry-run the same steps run on a CPU, in Triton's interpreter
and with tiny shapes, which shows that they run and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import steps
from benchmarks.measure import environment, results
from benchmarks.show import table
from benchmarks.steps import SECONDS, Outcome, Step

TESTS = "tests/gpu"
SMALL_SET = f"{TESTS}/small_set.py"
# What a lent machine must tell first: whether the kernels are right and how fast. Then the rest, in
# order of value.
STAGES = {
    "a": ("build", "smoke", "losses", "core"),
    "b": (
        *("build", "peers", "siblings", "training", "tests", "large"),
        *("host", "small-set", "memcheck", "racecheck"),
    ),
}
STEPS = tuple(dict.fromkeys([*STAGES["a"], *STAGES["b"]]))
# Of a stage: what its steps may take together, which is less than a machine is lent for.
STAGE_SECONDS = {"a": 315.0, "b": 510.0}
# An H100 took 29 s to build, 61 for smoke, 107 for losses, 65 for core and 31 for memcheck. host
# needs more than 20 s where Triton's kernels are not compiled yet.
_STEP_SECONDS = {
    "build": 45,
    "smoke": 75,
    "losses": 120,
    "core": 75,
    "peers": 110,
    "siblings": 35,
    "training": 60,
    "tests": 85,
    "large": 35,
    "host": 45,
    "small-set": 20,
    "memcheck": 40,
    "racecheck": 35,
}
_ARGUMENTS = {
    "losses": (
        *("--device=cuda", "--seconds=0", "--min-time=0.3"),
        *("--variants", "amd_fused", "amd_fused_cuda", "eager"),
        *("--dtypes", "float32", "bfloat16"),
        *("--shapes", "cifar-wrn", "imagenet-resnet", "detection"),
    ),
    "peers": (
        *("--device=cuda", f"--seconds={SECONDS}", "--min-time=0.5"),
        *("--layouts", "nchw", "--shapes", "cifar-wrn", "imagenet-resnet"),
        *("--dtypes", "float32", "bfloat16", "--variants", "amd_fused", "eager", "compile"),
    ),
    "siblings": ("--device=cuda", "--seconds=0", "--min-time=0.3"),
    "training": (
        *("--device=cuda", "--seconds=0", "--min-time=5"),
        *("--settings", "wrn-amp", "resnet-amp"),
    ),
    "host": ("--device=cuda",),
}
_DRY = ("--device=cpu", "--min-time=0")
_DRY_ARGUMENTS = {
    "losses": (
        *(*_DRY, "--seconds=0", "--shapes", "tiny", "--layouts", "channels_last"),
        *("--variants", "amd_fused", "eager", "at"),
    ),
    "peers": (
        *(*_DRY, "--shapes", "tiny", "--layouts", "nchw"),
        *("--variants", "amd_fused", "eager", "compile"),
    ),
    "siblings": (*_DRY, "--seconds=0", "--shapes", "tiny", "--dtypes", "float32"),
    "training": (*_DRY, "--seconds=0", "--settings=tiny-amp"),
    "host": _DRY,
}
_DRY_VARIABLES = {
    "TRITON_INTERPRET": "1",
    "AMD_FUSED_BACKEND": "triton",
    "AMD_FUSED_TEST_DEVICE": "cpu",
}
# Of pytest's markers, and the GPU's memory for each process. Every test is in one of these.
_WHICH = {
    "smoke": ("smoke", 5 << 30),
    "core": ("core and not smoke", 5 << 30),
    "tests": ("not (smoke or core or large)", 5 << 30),
    "large": ("large", 30 << 30),
}
_SANITIZER_IN_TOOLKIT = "/usr/local/cuda/bin/compute-sanitizer"
# Of all kernels, ours.
_SANITIZER_OPTIONS = ("--error-exitcode", "1", "--kernel-regex", "kns=amd_")
# What it prints on machines that do not let it at the device.
_SANITIZER_REFUSED = "Device not supported"
# A dry run measures nothing, so that its limits only end what hangs, on the slowest machine too.
_DRY_PATIENCE = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps of a stage. 1 if one of them failed, else 0.

    A step that fails stops no other, the smoke test neither: what is timed is checked first, and a
    wrong variant is refused there, so that the others' figures are not lost with it.
    """
    options = _parser().parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("benchmarks gpu: torch sees no CUDA device here; --dry-run needs none")
        return 1
    machine = environment.describe(torch.device("cpu" if options.dry_run else "cuda"))
    prefix = options.out.resolve() / f"{environment.file_stem(machine)}-{options.stage}"
    packed = prefix.with_name(f"{prefix.name}-results.tar.gz")
    patience = _DRY_PATIENCE if options.dry_run else 1
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / prefix.name

        def keep(outcomes: list[Outcome]) -> None:
            """All that is known so far, for whoever ends this run early."""
            summary = {
                "schema": results.SCHEMA,
                "command": "gpu",
                "environment": machine,
                "dry_run": options.dry_run,
                "stage": options.stage,
                "steps": [asdict(outcome) for outcome in outcomes],
            }
            results.write(summary, Path(f"{files}-summary.json"))
            with tarfile.open(packed, "w:gz") as archive:
                for path in sorted(Path(folder).iterdir()):
                    archive.add(path, path.name)

        made = {
            step.name: replace(step, seconds=step.seconds * patience)
            for step in all_steps(options.dry_run, files)
        }
        chosen = [made[name] for name in options.steps or STAGES[options.stage]]
        seconds = (options.seconds or STAGE_SECONDS[options.stage]) * patience
        outcomes = steps.run_all(chosen, seconds, prefix, keep)
        shown = render(outcomes, files)
    print("", table.render_environment(machine), "", *shown, sep="\n")
    print(f"\nwritten to {packed} and {prefix}.log")
    return steps.status(outcomes)


def render(outcomes: Sequence[Outcome], files: Path) -> list[str]:
    """The summary: what the benchmarks measured, then a line a step."""
    blocks = []
    for name in ("losses", "peers", "siblings", "host", "training"):
        path = Path(f"{files}-{name}.json")
        if path.exists():
            cases = json.loads(path.read_text())["cases"]
            of_all = name in ("losses", "peers")
            blocks += [table.render_ours(cases)] if of_all else map(table.render_case, cases)
            blocks.append("")
    return [*blocks, *steps.render(outcomes)]


def all_steps(dry: bool, files: Path) -> list[Step]:
    """Of both stages; their results are written beside ``files``."""
    arguments = _DRY_ARGUMENTS if dry else _ARGUMENTS
    # One cache for all steps: what the first compile, the others find.
    cache = {"TRITON_CACHE_DIR": str(steps.ROOT / "build" / "triton-cache")}
    interpreted = cache | (_DRY_VARIABLES if dry else {})
    not_dry = "dry run" if dry else ""

    def step(name: str, command: Sequence[str], missing: str = "", **options: Any) -> Step:
        options.setdefault("variables", interpreted)
        return Step(name, tuple(command), _STEP_SECONDS[name], missing, **options)

    def benchmark(name: str, **options: Any) -> Step:
        command = "losses" if name == "peers" else name
        output = f"--output={files}-{name}.json"
        return step(name, (*steps.BENCHMARKS, command, output, *arguments[name]), **options)

    def tests(name: str, missing: str = "") -> Step:
        which, bytes_each = _WHICH[name]
        report = f"--junitxml={files}-{name}.xml"
        return step(name, (*_pytest(dry, bytes_each), "-m", which, report), missing)

    def sanitizer(tool: str) -> Step:
        program = shutil.which("compute-sanitizer") or shutil.which(_SANITIZER_IN_TOOLKIT) or ""
        missing = not_dry or ("" if program else "compute-sanitizer is not installed")
        command = (program, *_SANITIZER_OPTIONS, "--tool", tool, sys.executable, SMALL_SET)
        return step(tool, command, missing, refused=_SANITIZER_REFUSED)

    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    here = "" if dry else ".".join(map(str, torch.cuda.get_device_capability()))
    return [
        # The CUDA kernels, where there is nvcc, for this GPU alone, and the C++ ones. What is
        # missing, tests say.
        step("build", build, not_dry, counts=False, variables={"TORCH_CUDA_ARCH_LIST": here}),
        *(tests(name, not_dry if name == "large" else "") for name in _WHICH),
        *map(benchmark, ("losses", "peers", "siblings", "training")),
        # In a dry run no interpreter: its launches are left out where there is no GPU.
        benchmark("host", variables=cache),
        # Without the sanitizer first, which then finds the kernels compiled.
        step("small-set", (sys.executable, SMALL_SET)),
        sanitizer("memcheck"),
        sanitizer("racecheck"),
    ]


def _pytest(dry: bool, bytes_each: int) -> tuple[str, ...]:
    # Warnings of whatever versions are installed here are no errors of ours.
    options = ("-q", "-W", "default", "--durations=5", "-p", "no:cacheprovider")
    if not dry and environment.has("xdist"):
        # Most of the time goes into compiling kernels, which one process does one by one.
        memory = torch.cuda.get_device_properties("cuda").total_memory
        workers = min(14, os.cpu_count() or 1, max(1, memory // bytes_each))
        options += ("-n", str(workers))
    return (sys.executable, "-m", "pytest", TESTS, *options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("stage", choices=STAGES, help="the losses first, or all the rest")
    parser.add_argument(
        "--out", type=Path, default=results.FOLDER, metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, help="default: all of the stage, in its order"
    )
    limits = " or ".join(f"{seconds:g}" for seconds in STAGE_SECONDS.values())
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"for all steps together ({limits}), {_DRY_PATIENCE} times that in a dry run",
    )
    return parser
