"""Measure everything that a user may want to check, then make the report: `make bench`.

The AMD loss in float32 with all peers and in bfloat16, how its cost grows, host time, the
microbenchmarks of pytest-benchmark, and the sibling losses at a shape each. Compiling the peers is
what takes time, most of it at the first run: where it would last too long, they are left out and
the tables say so.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environment, report, results, steps
from benchmarks.steps import SECONDS, Outcome, Step

# Six minutes, with some time to spare.
_ALL_SECONDS = 350.0
# What pytest-benchmark writes is no result file: it goes where its own commands look for it.
STORAGE = steps.ROOT / ".benchmarks"
_MICRO = "benchmarks/bench_loss.py"
# One case of each shape, and no variant that compiles.
_SELECTED = "nchw and float32 and not compile and not autotune"
_TINY = {
    "losses": ("--shapes", "tiny", "--layouts", "nchw"),
    "scaling": ("--tiny",),
    "siblings": ("--shapes=tiny",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps. 1 if one of them failed, else 0."""
    options = parser().parse_args(arguments)
    machine = environment.describe(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    STORAGE.mkdir(exist_ok=True)
    prefix = options.out.resolve() / environment.file_stem(machine)
    made = all_steps(options.device.type, options.tiny, prefix)
    outcomes: list[Outcome] = []
    with prefix.with_name(f"{prefix.name}.log").open("w", buffering=1) as log:
        steps.run_all(made, options.seconds, log, outcomes.append)
    print("", *steps.render(outcomes), f"\nwritten to {prefix}*", sep="\n")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def all_steps(device: str, tiny: bool, prefix: Path) -> list[Step]:
    """In order; the first takes what the others leave, for compiling peers."""
    files = []
    quick = ("--min-time=0",) if tiny else ()

    def measured(name: str, command: str, *more: str, **options: float) -> Step:
        path = results.beside(prefix, f"{name}.json")
        files.append(str(path))
        given = (*more, *quick, *(_TINY.get(command, ()) if tiny else ()))
        line = (sys.executable, "-m", "benchmarks", command, "--device", device, *given)
        return Step(name, (*line, "--output", str(path)), **options)

    limited = f"--seconds={0 if tiny else SECONDS}"
    made = [
        measured("losses", "losses", "--min-time=5", limited, seconds=240),
        measured(
            *("losses-bfloat16", "losses", "--dtypes=bfloat16", "--min-time=3", limited),
            seconds=60,
            reserved=28,
        ),
        measured("host", "host", "--min-time=1", seconds=30, reserved=8),
        _micro(device, tiny, prefix.name),
        measured(
            *("siblings", "siblings", "--shapes=middle", "--min-time=0.5", limited),
            seconds=70,
            reserved=40,
        ),
        measured("scaling", "scaling", "--min-time=1", limited, seconds=120, reserved=40),
    ]
    line = (sys.executable, "-m", "benchmarks", "report", "--skip-missing")
    command = (*line, "--out", str(prefix.parent), *files)
    return [*made, Step("report", command, 30, reserved=report.SECONDS)]


def _micro(device: str, tiny: bool, stem: str) -> Step:
    found = importlib.util.find_spec("pytest_benchmark") is not None
    command = (
        *(sys.executable, "-m", "pytest", _MICRO, "-q", "-p", "no:cacheprovider", "-W", "default"),
        *("-k", f"tiny and {_SELECTED}" if tiny else f"not tiny and {_SELECTED}"),
        f"--benchmark-json={STORAGE / stem}-loss.json",
        *("--benchmark-columns=median,iqr,rounds", "--benchmark-sort=mean"),
    )
    missing = "" if found else "pytest-benchmark is not installed: pip install 'amd_fused[bench]'"
    return Step(
        *("micro", command, 60, missing),
        reserved=28,
        variables={"AMD_FUSED_BENCH_DEVICE": device},
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks all", description=__doc__)
    made.add_argument(
        "--device",
        type=results.device,
        default=results.default_device(),
        help="cpu or cuda (default: cuda where torch has it, else cpu)",
    )
    made.add_argument(
        "--out", type=Path, default=results.FOLDER, metavar="FOLDER", help="default: %(default)s"
    )
    made.add_argument(
        "--seconds",
        type=float,
        default=_ALL_SECONDS,
        metavar="S",
        help="for all steps together (%(default)g)",
    )
    made.add_argument(
        "--tiny", action="store_true", help="shapes for the tests, which say nothing on speed"
    )
    return made
