"""Time the losses, forward and backward, against their peers and against a plain copy."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import torch

from benchmarks import amd, common, results, table
from benchmarks.budget import Budget, Guess
from benchmarks.harness import Copy, Settings, measure
from benchmarks.shapes import SHAPES
from benchmarks.subject import Case, Variant

SUBJECTS = {"amd": amd.case}
DTYPES = ("float32", "float64", "float16", "bfloat16")
# A call on a GPU is short, and all figures of a turn are waited for together.
SETTINGS = {
    "cpu": Settings(),
    "cuda": Settings(min_time=1.5, min_rounds=3, calls_per_turn=10),
}


@dataclass(frozen=True)
class Entry:
    """One case to be measured: its name on the screen, how it is made, what its record adds."""

    name: str
    make: Callable[[], Case]
    more: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; see :func:`status`."""
    options = parser().parse_args(arguments)
    entries = [
        Entry(
            f"{shape}, {layout}, {dtype}",
            partial(
                SUBJECTS[subject], SHAPES[shape], layout, getattr(torch, dtype), options.device
            ),
        )
        for subject, shape, layout, dtype in cases(options)
    ]
    return run("losses", entries, options)


def run(
    command: str,
    entries: Sequence[Entry],
    options: argparse.Namespace,
    settings: Mapping[str, Settings] = SETTINGS,
    guess: Guess | None = None,
) -> int:
    """Measures all entries, with what :func:`add_arguments` asks for, into one result file.

    ``settings`` by the type of the device; ``guess``: of what takes how long, for --seconds.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = options.device
    how = settings[device.type]
    if options.min_time is not None:
        how = replace(how, min_time=options.min_time)
    result = results.new(command, device, settings=vars(how), cases=[])
    path = results.path_of(command, result, options.output)
    machine = result["environment"]
    print(table.render_environment(machine), table.legend(device), sep="\n\n", end="\n\n")

    copy = Copy(device)
    budget = Budget(options.seconds, len(entries), guess)
    for entry in entries:
        print(f"measuring {entry.name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        case = entry.make()
        case = replace(case, variants=chosen(case.variants, options.variants))
        record = measure(case, copy, how, budget.refusal) | entry.more
        del case
        budget.spent(record, time.perf_counter() - start)
        result["cases"].append(record)
        results.write(result, path)
        print(table.render_case(record), end="\n\n", flush=True)

    result["finished"] = True
    results.write(result, path)
    print(f"written to {path}")
    return status(result)


def status(result: dict[str, Any]) -> int:
    """1 if a variant of ours, or its graph, was wrong or failed, else 0."""
    ours = [v for case in result["cases"] for v in case["variants"] if not v["peer"]]
    checked = [*ours, *(v["graph"] for v in ours if v["graph"])]
    return 0 if all(v["status"] == "ok" for v in checked) else 1


def chosen(variants: list[Variant], keys: Sequence[str] | None) -> list[Variant]:
    """Those with the given keys, all if none are given."""
    known = [variant.key for variant in variants]
    # A backend of ours that is not usable here is none to name in vain.
    ours = [f"amd_fused_{name}" for names in common.FUSED.values() for name in names]
    if unknown := set(keys or ()).difference(known, ours):
        raise SystemExit(
            f"benchmarks: --variants must be of {', '.join(known)}, "
            f"got {', '.join(sorted(unknown))}"
        )
    return [variant for variant in variants if keys is None or variant.key in keys]


def cases(options: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """(subject, shape, layout, dtype). With --seconds the most different ones come first."""
    grid = list(product(options.layouts, options.dtypes))
    if options.seconds is not None:
        # The diagonal first: each layout and each dtype was then seen before time runs out.
        size = max(len(options.layouts), len(options.dtypes))
        grid.sort(key=lambda c: (options.dtypes.index(c[1]) - options.layouts.index(c[0])) % size)
        return [(s, shape, *c) for s in SUBJECTS for c in grid for shape in options.shapes]
    return [(s, shape, *c) for s in SUBJECTS for shape in options.shapes for c in grid]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks [losses]",
        description=__doc__,
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
    add_maps_arguments(made, list(amd.LAYOUTS))
    return made


def add_maps_arguments(made: argparse.ArgumentParser, layouts: list[str]) -> None:
    """The options of the commands that measure one loss on feature maps."""
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
    add_arguments(made)


def add_arguments(
    made: argparse.ArgumentParser, settings: Mapping[str, Settings] = SETTINGS
) -> None:
    """The options of all commands that measure cases of losses."""
    made.add_argument(
        "--variants", nargs="+", metavar="KEY", help="by their keys, such as eager (default: all)"
    )
    made.add_argument("--threads", type=int, metavar="N", help="default: as torch chooses")
    defaults = ", ".join(f"{s.min_time:g} on {name}" for name, s in settings.items())
    made.add_argument(
        "--min-time",
        type=float,
        metavar="S",
        help=f"seconds for a shape, layout and dtype, all variants together (default: {defaults})",
    )
    made.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="for all, compiling included: leaves compiled peers out where it would take longer",
    )
    results.add_arguments(made)
