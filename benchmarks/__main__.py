"""Time the losses, forward and backward, against their peers and against a plain copy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import amd, environment, table
from benchmarks.harness import Copy, Settings, measure
from benchmarks.shapes import SHAPES
from benchmarks.subject import Case

# Raised when a key of the result file changes its meaning.
SCHEMA = 1
RESULTS = Path(__file__).parent / "results"
SUBJECTS = {"amd": amd.case}
DTYPES = ("float32", "float64", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for. 1 if a variant of ours was wrong or failed, else 0."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = Settings(min_time=options.min_time)
    machine = environment.describe()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": machine,
        "settings": vars(settings),
        "cases": [],
    }
    print(table.render_environment(machine), table.LEGEND, sep="\n\n", end="\n\n", flush=True)

    copy = Copy()
    for case in _cases(options):
        measured = measure(case, copy, settings)
        result["cases"].append(measured)
        print(table.render_case(measured), end="\n\n", flush=True)

    output = options.output or RESULTS / f"{environment.file_stem(machine)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"written to {output}")
    ours = [v for case in result["cases"] for v in case["variants"] if not v["peer"]]
    return 0 if all(v["status"] == "ok" for v in ours) else 1


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for make in SUBJECTS.values():
        for shape in options.shapes:
            for layout in options.layouts:
                for dtype in options.dtypes:
                    print(f"measuring {shape}, {layout}, {dtype}", file=sys.stderr, flush=True)
                    yield make(SHAPES[shape], layout, getattr(torch, dtype))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=["cifar-wrn", "imagenet-resnet"],
        help="; ".join(f"{shape.name}: {shape.note}" for shape in SHAPES.values()),
    )
    parser.add_argument(
        "--layouts", nargs="+", choices=amd.LAYOUTS, default=list(amd.LAYOUTS), help="default: both"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default: float32"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: as torch chooses")
    parser.add_argument(
        "--min-time",
        type=float,
        default=Settings.min_time,
        metavar="S",
        help="seconds for a shape, layout and dtype, all variants together (%(default)g)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: <device>-<threads>-<date>.json in benchmarks/results",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
