"""Time how the losses' cost grows: with the batch, and with the size of the maps; one layer pair.

Twice the size is twice the floor, so on log axes an implementation at the floor is a line beside
it, and what a call costs besides shows where the line flattens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

from benchmarks.cases import losses
from benchmarks.cases.shapes import Pair, Shape
from benchmarks.measure.runner import Command, Entry

COMMAND = Command("scaling", __doc__)
# The batch at the second stage of ResNets on ImageNet, and the side of the maps at the first's
# channels. From where overheads count to where only bandwidth does, and none so small that its
# inputs, taken in turn, stay in the cache. A GPU's are larger.
SIZES = {
    "cpu": {"batch": (1, 4, 16, 64), "map": (7, 14, 28, 56, 112)},
    "cuda": {"batch": (4, 16, 64, 256), "map": (14, 28, 56, 112, 224)},
}
_MAP_BATCH = 16
# For the dry form and the tests.
TINY_SIZES = {"batch": (1, 2), "map": (2, 3)}
SWEEPS = ("batch", "map")


def shape_of(sweep: str, size: int, tiny: bool = False) -> Shape:
    """The shape that is ``size`` large: its batch, or the height and width of its maps."""
    if sweep == "batch":
        channels, side = (3, 4) if tiny else (128, 28)
        pair = Pair(channels, channels, side, side)
        note = f"{channels} channels of {side}x{side}, student and teacher"
        return Shape(f"batch-{size}", size, (pair,), note)
    channels, batch = (3, 2) if tiny else (64, _MAP_BATCH)
    note = f"{channels} channels, student and teacher, batch {batch}"
    return Shape(f"map-{size}x{size}", batch, (Pair(channels, channels, size, size),), note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    return COMMAND.run(entries(options), options)


def entries(options: argparse.Namespace) -> list[Entry]:
    """With --seconds the ends of each sweep come first, and so get their compiled peers."""
    sizes = TINY_SIZES if options.tiny else SIZES[options.device.type]
    grid = [
        (layout, dtype, sweep, size)
        for layout, dtype, sweep in product(options.layouts, options.dtypes, options.sweeps)
        for size in sizes[sweep]
    ]
    if options.seconds is not None:
        grid.sort(key=lambda g: sizes[g[2]].index(g[3]) not in (0, len(sizes[g[2]]) - 1))
    return [
        losses.amd_entry(
            shape_of(sweep, size, options.tiny), layout, dtype, options, sweep=sweep, size=size
        )
        for layout, dtype, sweep, size in grid
    ]


def parser() -> argparse.ArgumentParser:
    made = COMMAND.parser()
    made.add_argument(
        "--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: both"
    )
    made.add_argument(
        "--tiny", action="store_true", help="sizes for the tests, which say nothing on speed"
    )
    losses.add_maps(made, ["nchw"])
    return made
