"""What the commands that measure share: their options, and the run from entry to result file."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from amd_fused.distill.clock import Settings
from benchmarks.measure import results
from benchmarks.measure.budget import Budget, Guess
from benchmarks.measure.harness import Copy, measure
from benchmarks.measure.subject import Case, Variant
from benchmarks.show import table

DTYPES = ("float32", "float64", "float16", "bfloat16")
# A call on a GPU is short, and all figures of a turn are waited for together.
SETTINGS = {
    "cpu": Settings(),
    "cuda": Settings(min_time=1.5, min_rounds=3, calls_per_turn=10),
}
# As few calls as have quartiles: to see that it runs.
_QUICK = Settings(min_time=0.0, min_rounds=2, calls_per_turn=1)
# The backends of ours that a case may have as variants of their own.
_OURS = ("amd_fused_cpp", "amd_fused_triton", "amd_fused_cuda")


@dataclass(frozen=True)
class Bench:
    """What all entries of a run share. ``refusal(variant)``: why it is left out, empty if not."""

    device: torch.device
    settings: Settings
    refusal: Callable[[Variant], str]

    @cached_property
    def copy(self) -> Copy:
        return Copy(self.device)


@dataclass(frozen=True)
class Entry:
    """One case to be measured: its name on the screen, and what makes its record."""

    name: str
    measure: Callable[[Bench], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command that measures.

    Args:
        name: as on the command line and in the result file.
        about: for --help.
        settings: by the type of the device.
        guess: of what takes how long, for --seconds.
    """

    name: str
    about: str
    settings: Mapping[str, Settings] = field(default_factory=lambda: SETTINGS)
    guess: Guess = field(default_factory=Guess)

    def parser(self, **more: Any) -> argparse.ArgumentParser:
        """With the options that all have."""
        made = argparse.ArgumentParser(
            **{"prog": f"python -m benchmarks {self.name}", "description": self.about, **more}
        )
        defaults = ", ".join(f"{s.min_time:g} on {name}" for name, s in self.settings.items())
        made.add_argument(
            "--min-time",
            type=float,
            metavar="S",
            help=f"seconds a case, for all its variants (default: {defaults}); 0: two calls each",
        )
        add_device(made)
        made.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="default: <device>-<date>-<command>.json in benchmarks/results",
        )
        made.set_defaults(seconds=None, threads=None)
        return made

    def run(self, entries: Sequence[Entry], options: argparse.Namespace) -> int:
        """Measures all entries into one result file, written after each of them.

        1 if a variant of ours, or its graph, was wrong or failed, else 0.
        """
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        how = self.settings[options.device.type]
        if options.min_time is not None:
            how = replace(how, min_time=options.min_time) if options.min_time else _QUICK
        result = results.new(self.name, options.device, settings=vars(how), cases=[])
        path = results.path_of(self.name, result, options.output)
        machine = table.render_environment(result["environment"])
        print(machine, table.legend(result), sep="\n\n", end="\n\n")
        budget = Budget(options.seconds, len(entries), self.guess)
        bench = Bench(options.device, how, budget.refusal)
        for entry in entries:
            print(f"measuring {entry.name}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            record = entry.measure(bench)
            budget.spent(record, time.perf_counter() - start)
            result["cases"].append(record)
            result["finished"] = len(result["cases"]) == len(entries)
            results.write(result, path)
            print(table.render_case(record), end="\n\n", flush=True)
            gc.collect()
        print(f"written to {path}")
        return status(result)


def status(result: dict[str, Any]) -> int:
    """1 if a case, a variant of ours or its graph was wrong or failed, else 0."""
    return int(any(found in ("refused", "failed") for found in _statuses(result["cases"])))


def _statuses(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    for case in cases:
        yield case.get("status", "ok")
        for ours in (v for v in case["variants"] if not v["peer"]):
            yield ours["status"]
            yield (ours.get("graph") or ours)["status"]


def entry(name: str, make: Callable[[], Case], keys: Sequence[str] | None, **more: Any) -> Entry:
    """A case of the harness, its variants those with the ``keys``; ``more``: of its record."""

    def record(bench: Bench) -> dict[str, Any]:
        case = make()
        case = replace(case, variants=chosen(case.variants, keys))
        return measure(case, bench.copy, bench.settings, bench.refusal) | more

    return Entry(name, record)


def chosen(variants: list[Variant], keys: Sequence[str] | None) -> list[Variant]:
    """Those with the given keys, all if none are given."""
    known = [variant.key for variant in variants]
    # A backend of ours that is not usable here is none to name in vain.
    if unknown := set(keys or ()).difference(known, _OURS):
        raise SystemExit(
            f"benchmarks: --variants must be of {', '.join(known)}, "
            f"got {', '.join(sorted(unknown))}"
        )
    return [variant for variant in variants if keys is None or variant.key in keys]


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=_device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="cpu or cuda (default: cuda where torch has it, else cpu)",
    )


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """The option of the commands that have peers which compile."""
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="for all, compiling included: leaves compiled peers out where it would take longer",
    )


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The options of the commands whose entries are cases of the harness."""
    parser.add_argument(
        "--variants", nargs="+", metavar="KEY", help="by their keys, such as eager (default: all)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: as torch chooses")
    add_seconds(parser)


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device here; use cpu")
    return torch.device(name)
