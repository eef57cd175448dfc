"""Time the losses beside AMD, forward and backward, against their peers and a plain copy.

Each at the sizes that training has: KD, spherical KD, ND, LSH, AT, SP and RKD.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import at, common, kd, losses, lsh, nd, rkd, sp
from benchmarks.budget import Guess
from benchmarks.harness import Settings
from benchmarks.losses import Entry
from benchmarks.subject import Case

# Most calls are short. compare wants five rounds.
_SETTINGS = {
    "cpu": Settings(min_time=2.0),
    "cuda": Settings(min_time=1.0, min_rounds=5, calls_per_turn=10),
}
# Small graphs: 2 to 10 seconds each at the first run.
_GUESS = Guess(compile=5.0, case=1.5)


@dataclass(frozen=True)
class Subject:
    """``case(shape, layout, dtype, device)``, and what it is called with."""

    case: Callable[..., Case]
    layout: str
    # In order of size; and one for the tests.
    shapes: Sequence[Any]
    tiny: Any
    dtypes: Sequence[str]

    @property
    def middle(self) -> Any:
        """The shape that stands for all where there is little time."""
        return self.shapes[len(self.shapes) // 2]


SUBJECTS = {
    "kd": Subject(kd.case, common.ROWS, kd.SHAPES, kd.TINY, kd.DTYPES),
    "skd": Subject(kd.spherical_case, common.ROWS, kd.SHAPES, kd.TINY, kd.DTYPES),
    "nd": Subject(nd.case, common.ROWS, nd.SHAPES, nd.TINY, nd.DTYPES),
    "lsh": Subject(lsh.case, common.ROWS, lsh.SHAPES, lsh.TINY, lsh.DTYPES),
    "at": Subject(at.case, "nchw", at.SHAPES, at.TINY, at.DTYPES),
    "sp": Subject(sp.case, "nchw", sp.SHAPES, sp.TINY, sp.DTYPES),
    "rkd": Subject(rkd.case, common.ROWS, rkd.SHAPES, rkd.TINY, rkd.DTYPES),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; see :func:`benchmarks.losses.status`."""
    options = parser().parse_args(arguments)
    return losses.run("siblings", entries(options), options, _SETTINGS, _GUESS)


def entries(options: argparse.Namespace) -> list[Entry]:
    """Subject by subject, in order of size; with --seconds the middle sizes come first.

    So that each subject has its compiled peer once before time runs out.
    """
    grid = []
    for name in options.subjects:
        subject = SUBJECTS[name]
        shapes = {"all": subject.shapes, "middle": [subject.middle], "tiny": [subject.tiny]}
        dtypes = options.dtypes or subject.dtypes
        grid += [(name, shape, dtype) for shape in shapes[options.shapes] for dtype in dtypes]
    if options.seconds is not None:
        grid.sort(key=lambda entry: entry[1] is not SUBJECTS[entry[0]].middle)
    return [_entry(name, shape, dtype, options.device) for name, shape, dtype in grid]


def _entry(name: str, shape: Any, dtype: str, device: torch.device) -> Entry:
    subject = SUBJECTS[name]
    make = partial(subject.case, shape, subject.layout, getattr(torch, dtype), device)
    return Entry(f"{name}: {shape.name}, {subject.layout}, {dtype}", make)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks siblings", description=__doc__)
    made.add_argument(
        "--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all"
    )
    made.add_argument(
        "--shapes",
        choices=("all", "middle", "tiny"),
        default="all",
        help="of each subject; middle is one that stands for all, tiny is for the tests",
    )
    defaults = "; ".join(f"{name}: {' '.join(s.dtypes)}" for name, s in SUBJECTS.items())
    made.add_argument(
        "--dtypes", nargs="+", choices=losses.DTYPES, help=f"of all subjects (default: {defaults})"
    )
    losses.add_arguments(made, _SETTINGS)
    return made
