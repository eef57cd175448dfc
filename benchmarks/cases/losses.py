"""Time the AMD loss, forward and backward, against its peers and against a plain copy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch

from benchmarks.cases import amd
from benchmarks.cases.shapes import SHAPES, Shape
from benchmarks.measure.runner import DTYPES, Command, Entry, add_choices, entry

COMMAND = Command("losses", __doc__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    return COMMAND.run(entries(options), options)


def entries(options: argparse.Namespace) -> list[Entry]:
    """With --seconds the most different cases come first."""
    grid = list(product(options.layouts, options.dtypes))
    if options.seconds is None:
        cases = list(product(options.shapes, grid))
    else:
        # The diagonal first: each layout and each dtype was then seen before time runs out.
        size = max(len(options.layouts), len(options.dtypes))
        grid.sort(key=lambda c: (options.dtypes.index(c[1]) - options.layouts.index(c[0])) % size)
        cases = [(shape, of_it) for of_it in grid for shape in options.shapes]
    return [amd_entry(SHAPES[shape], *of_it, options) for shape, of_it in cases]


def amd_entry(
    shape: Shape, layout: str, dtype: str, options: argparse.Namespace, **more: object
) -> Entry:
    make = partial(amd.case, shape, layout, getattr(torch, dtype), options.device)
    return entry(f"{shape.name}, {layout}, {dtype}", make, options.variants, **more)


def parser() -> argparse.ArgumentParser:
    made = COMMAND.parser(
        prog="python -m benchmarks [losses]",
        epilog="Other commands, each with its own --help: siblings, scaling, host, training, "
        "report, compare, all, gpu.",
    )
    made.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=["cifar-wrn", "imagenet-resnet"],
        help="; ".join(f"{shape.name}: {shape.note}" for shape in SHAPES.values()),
    )
    add_maps(made, list(amd.LAYOUTS))
    return made


def add_maps(made: argparse.ArgumentParser, layouts: list[str]) -> None:
    """The options of the commands that measure the AMD loss."""
    made.add_argument(
        "--layouts",
        nargs="+",
        choices=amd.LAYOUTS,
        default=layouts,
        help=f"default: {' '.join(layouts)}",
    )
    made.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default: float32"
    )
    add_choices(made)
