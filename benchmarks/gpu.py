"""Run what needs a GPU, in two stages: build, tests, benchmarks, compute-sanitizer.

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
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, host, results, steps, table, training
from benchmarks.results import beside
from benchmarks.steps import Outcome, Step

TESTS = "tests/gpu"
SMALL_SET = f"{TESTS}/small_set.py"
# What a lent machine must tell first, in four minutes: whether the kernels are right and how fast.
# The rest fits in as many.
STAGES = {
    "a": ("build", "smoke", "losses", "core", "memcheck"),
    "b": (
        *("build", "tests", "large", "peers", "training"),
        *("siblings", "host", "small-set", "racecheck"),
    ),
}
STEPS = tuple(dict.fromkeys([*STAGES["a"], *STAGES["b"]]))
_SHAPES = ("--shapes", "cifar-wrn", "imagenet-resnet", "detection")
_ARGUMENTS = {
    "losses": (
        *("--device=cuda", "--seconds=0", "--min-time=0.3"),
        *("--variants", "amd_fused", "amd_fused_cuda", "eager"),
        *("--dtypes", "float32", "bfloat16", *_SHAPES),
    ),
    "peers": (
        *("--device=cuda", "--min-time=0.5", "--dtypes", "float32", "bfloat16"),
        *("--layouts", "nchw", "--shapes", "cifar-wrn", "imagenet-resnet"),
        *("--variants", "amd_fused", "eager", "compile"),
    ),
    "host": ("--device=cuda",),
    "siblings": ("--device=cuda", "--seconds=0", "--min-time=0.3"),
    "training": ("--device=cuda", "--seconds=0", "--min-time=5"),
}
_DRY_ARGUMENTS = {
    "losses": (
        *("--device=cpu", "--seconds=0", "--min-time=0"),
        *("--shapes", "tiny", "--layouts", "channels_last"),
        *("--variants", "amd_fused", "eager", "compile", "at"),
    ),
    "peers": (
        *("--device=cpu", "--min-time=0", "--shapes", "tiny", "--layouts", "nchw"),
        *("--variants", "amd_fused", "eager"),
    ),
    "host": ("--device=cpu", "--min-time=0"),
    "siblings": (
        "--device=cpu",
        "--seconds=0",
        "--min-time=0",
        "--shapes",
        "tiny",
        "--dtypes",
        "float32",
    ),
    "training": ("--device=cpu", "--settings=tiny-amp", "--seconds=0", "--min-time=0"),
}
# The command that measures, where the step is not named as it.
_COMMANDS = {"peers": "losses"}
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
# Of a stage, less than a machine may be lent for.
_ALL_SECONDS = {"a": 255.0, "b": 285.0}
# A dry run measures nothing, so that its limits only end what hangs, on the slowest machine too.
_DRY_PATIENCE = 30
# Of the GPU's memory, for each process that runs tests, and those that run the large ones.
_TEST_BYTES = 5 << 30
_LARGE_TEST_BYTES = 30 << 30


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
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"{environment.file_stem(machine)}-{options.stage}"
    prefix = options.out.resolve() / stem
    patience = _DRY_PATIENCE if options.dry_run else 1
    names = options.steps or STAGES[options.stage]
    outcomes: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        prefix.with_name(f"{stem}.log").open("w", buffering=1) as log,
    ):
        files = Path(folder) / stem

        def keep(outcome: Outcome) -> None:
            """All that is known so far, for whoever ends this run early."""
            outcomes.append(outcome)
            summary = {
                "schema": results.SCHEMA,
                "command": "gpu",
                "environment": machine,
                "dry_run": options.dry_run,
                "stage": options.stage,
                "steps": [asdict(outcome) for outcome in outcomes],
            }
            results.write(summary, beside(files, "summary.json"))
            with tarfile.open(beside(prefix, "results.tar.gz"), "w:gz") as packed:
                for path in sorted(Path(folder).iterdir()):
                    packed.add(path, path.name)

        chosen = [
            replace(step, seconds=step.seconds * patience)
            for step in all_steps(options.dry_run, files)
            if step.name in names
        ]
        chosen.sort(key=lambda step: names.index(step.name))
        seconds = options.seconds or _ALL_SECONDS[options.stage]
        steps.run_all(chosen, seconds * patience, log, keep)
        shown = render(outcomes, files)
    print("", table.render_environment(machine), "", *shown, sep="\n")
    print(f"\nwritten to {beside(prefix, 'results.tar.gz')} and {prefix}.log")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def render(outcomes: Sequence[Outcome], files: Path) -> list[str]:
    """The summary: what the benchmarks measured, then a line a step."""
    shown: dict[str, Callable[[list[dict[str, Any]]], str]] = {
        "losses": table.render_ours,
        "peers": table.render_ours,
        "host": lambda cases: "\n\n".join(map(host.render, cases)),
        "training": lambda cases: "\n\n".join(map(training.render, cases)),
    }
    blocks = []
    for name, show in shown.items():
        path = beside(files, f"{name}.json")
        if path.exists():
            blocks += [show(json.loads(path.read_text())["cases"]), ""]
    return [*blocks, *steps.render(outcomes)]


def all_steps(dry: bool, files: Path) -> list[Step]:
    """Of both stages; their results are written beside ``files``."""
    arguments = _DRY_ARGUMENTS if dry else _ARGUMENTS
    # One cache for all steps: what the first compile, the others find.
    cache = {"TRITON_CACHE_DIR": str(steps.ROOT / "build" / "triton-cache")}
    variables = cache | (_DRY_VARIABLES if dry else {})
    not_dry = "dry run" if dry else ""

    def benchmark(name: str, seconds: float, **options: Any) -> Step:
        command = (sys.executable, "-m", "benchmarks", _COMMANDS.get(name, name))
        output = str(beside(files, f"{name}.json"))
        options.setdefault("variables", variables)
        return Step(name, (*command, "--output", output, *arguments[name]), seconds, **options)

    def tests(name: str, which: str, seconds: float, each: int, missing: str = "") -> Step:
        report = f"--junitxml={beside(files, f'{name}.xml')}"
        command = (*_pytest(dry, each), "-m", which, report)
        return Step(name, command, seconds, missing, variables=variables)

    def sanitizer(tool: str) -> Step:
        program = shutil.which("compute-sanitizer") or shutil.which(_SANITIZER_IN_TOOLKIT) or ""
        missing = not_dry or ("" if program else "compute-sanitizer is not installed")
        command = (program, *_SANITIZER_OPTIONS, "--tool", tool, sys.executable, SMALL_SET)
        return Step(tool, command, 60, missing, refused=_SANITIZER_REFUSED, variables=variables)

    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    here = "" if dry else ".".join(map(str, torch.cuda.get_device_capability()))
    return [
        # The CUDA kernels, where there is nvcc, for this GPU alone, and the C++ ones. What is
        # missing, tests say.
        Step("build", build, 90, not_dry, False, variables={"TORCH_CUDA_ARCH_LIST": here}),
        tests("smoke", "smoke", 75, _TEST_BYTES),
        benchmark("losses", 120),
        tests("core", "core and not smoke", 75, _TEST_BYTES),
        tests("tests", "not (smoke or core or large)", 110, _TEST_BYTES),
        tests("large", "large", 45, _LARGE_TEST_BYTES, not_dry),
        benchmark("peers", 60),
        benchmark("training", 60),
        benchmark("siblings", 30),
        # In a dry run no interpreter: its launches are left out where there is no GPU.
        benchmark("host", 20, variables=cache),
        # Without the sanitizer first, which then finds the kernels compiled.
        Step("small-set", (sys.executable, SMALL_SET), 30, variables=variables),
        sanitizer("memcheck"),
        sanitizer("racecheck"),
    ]


def _pytest(dry: bool, bytes_each: int) -> tuple[str, ...]:
    # Warnings of whatever versions are installed here are no errors of ours.
    options = ("-q", "-W", "default", "--durations=5", "-p", "no:cacheprovider")
    if not dry and importlib.util.find_spec("xdist") is not None:
        # Most of the time goes into compiling kernels, which one process does one by one.
        memory = torch.cuda.get_device_properties("cuda").total_memory
        workers = min(14, os.cpu_count() or 1, max(1, memory // bytes_each))
        # It warns that it does nothing beside the other plugin.
        options += ("-n", str(workers), "-p", "no:benchmark")
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
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"for all steps together ({_ALL_SECONDS['a']:g} or {_ALL_SECONDS['b']:g}), "
        f"{_DRY_PATIENCE} times that in a dry run",
    )
    return parser
