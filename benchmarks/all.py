"""Measure everything that a user may want to check, then make the report: `make bench`.

The AMD loss in float32 with all peers and in bfloat16, how its cost grows, host time, and the
sibling losses at a shape each. Compiling the peers is what takes time, most of it at the first run:
where it would last too long, they are left out and the tables say so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import steps
from benchmarks.measure import environment, results, runner
from benchmarks.steps import SECONDS, Step

# Six minutes, with some time to spare.
_ALL_SECONDS = 350.0
_TINY = {
    "losses": ("--shapes", "tiny", "--layouts", "nchw"),
    "scaling": ("--tiny",),
    "siblings": ("--shapes=tiny",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps. 1 if one of them failed, else 0."""
    options = parser().parse_args(arguments)
    machine = environment.describe(options.device)
    prefix = options.out.resolve() / environment.file_stem(machine)
    made = all_steps(options.device.type, options.tiny, prefix)
    outcomes = steps.run_all(made, options.seconds, prefix)
    print("", *steps.render(outcomes), f"\nwritten to {prefix}*", sep="\n")
    return steps.status(outcomes)


def all_steps(device: str, tiny: bool, prefix: Path) -> list[Step]:
    """In order; the first takes what the others leave, for compiling peers."""
    files = []

    def measured(name: str, *more: str, **options: float) -> Step:
        files.append(f"{prefix}-{name}.json")
        # losses-bfloat16 is losses again.
        command = name.partition("-")[0]
        quick = ("--min-time=0", *_TINY.get(command, ())) if tiny else ()
        command_line = (command, f"--device={device}", f"--output={files[-1]}", *more, *quick)
        return Step(name, (*steps.BENCHMARKS, *command_line), **options)

    limited = f"--seconds={0 if tiny else SECONDS}"
    bfloat16 = ("--dtypes=bfloat16", "--min-time=3", limited)
    middle = ("--shapes=middle", "--min-time=0.5", limited)
    made = [
        measured("losses", "--min-time=5", limited, seconds=240),
        measured("losses-bfloat16", *bfloat16, seconds=60, reserved=28),
        measured("host", "--min-time=1", seconds=30, reserved=8),
        measured("siblings", *middle, seconds=70, reserved=40),
        measured("scaling", "--min-time=1", limited, seconds=120, reserved=40),
    ]
    report = (*steps.BENCHMARKS, "report", "--skip-missing", "--out", str(prefix.parent), *files)
    return [*made, Step("report", report, 30, reserved=25)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks all", description=__doc__)
    runner.add_device(made)
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
