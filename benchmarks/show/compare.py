"""Tell what changed from result file A to result file B, row by row, from noise.

Machines drift, so the times of a round are divided by a yardstick's of the same round before they
are compared: the eager reference, or the copy for the eager reference itself and where there is
none. B / A is the ratio of the medians, with a 99 % interval from the rounds' spread. The noise is
the median change of all peers, whose code did not change, and 2 % at least: it tells how far two
runs differ for no reason. A row is faster or slower if its whole interval is beyond the noise, and
within noise otherwise.

Exit status: 0 if nothing of ours is slower, 1 if something is or has no time any more, 2 if the
files cannot be compared.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import results
from benchmarks.measure.subject import EAGER
from benchmarks.show import table
from benchmarks.show.ratio import LEAST_ROUNDS, Ratio, ratio

Record = dict[str, Any]
LEAST_NOISE = 0.02
STAGES = ("total", "forward", "backward", "graph")
COPY, NONE = "copy", "none"
_LOST = "no time in B"
# What a case is: of the fields that a command writes, those that are there.
_IDENTITY = ("subject", "shape", "setting", "layout", "dtype")
# Of the environment: what makes two files different machines or different software.
_SAME = (
    *("device", "processor", "cores", "threads", "cpu_capability", "last_level_cache_bytes"),
    *("system", "python", "torch", "triton", "amd_fused"),
)
_HEADER = ("case", "variant", "A ms", "B ms", "B / A (99 % interval)", "by", "noise", "told")


@dataclass(frozen=True)
class Row:
    """A variant of a case, in one stage, in both files."""

    case: str
    variant: str
    peer: bool
    a_ms: float
    b_ms: float
    ratio: Ratio | None
    yardstick: str
    noise: float = LEAST_NOISE

    @property
    def told(self) -> str:
        return self.ratio.told(self.noise) if self.ratio else f"fewer than {LEAST_ROUNDS} rounds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares two files; the exit status is in the header."""
    made = parser()
    options = made.parse_args(arguments)
    try:
        a, b = results.read(options.a), results.read(options.b)
        if a["command"] != b["command"]:
            raise ValueError(
                f"{options.b}: command must be {a['command']}, as in {options.a}, "
                f"got {b['command']}"
            )
    except ValueError as error:
        made.error(str(error))
    for name, result in (("A", a), ("B", b)):
        print(f"{name}: {table.render_environment(result['environment'])}")
    print("", *(f"warning: {text}" for text in warnings(a, b)), sep="\n")
    compared, notes = rows(a, b, options.stages, options.yardstick)
    if not compared and not notes:
        made.error(f"{options.a} and {options.b} have no case in common")
    print(render(compared), *notes, sep="\n")
    worse = [row for row in compared if not row.peer and row.told == "slower"]
    lost = [note for note in notes if note.startswith(_LOST)]
    print(f"\nours: {len(worse)} slower, {len(lost)} without a time any more")
    return 1 if worse or lost else 0


def warnings(a: Record, b: Record) -> list[str]:
    """What else changed than the code, and what makes either file doubtful."""
    found = []
    old, new = a["environment"], b["environment"]
    for name in _SAME:
        if old.get(name) != new.get(name):
            found.append(f"{name} differs: {old.get(name)} in A, {new.get(name)} in B")
    for name in ("runtime", "driver", "cudnn"):
        was, now = ((side["cuda"] or {}).get(name) for side in (old, new))
        if was != now:
            found.append(f"cuda {name} differs: {was} in A, {now} in B")
    for name, result in (("A", a), ("B", b)):
        load, cores = result["environment"]["load_average"], result["environment"]["cores"]
        if load is not None and load > 0.75 * cores:
            found.append(f"{name} began on a busy machine: load average {load:.1f}, {cores} cores")
        if not result["finished"]:
            found.append(f"{name} was stopped before its end")
    return found


def rows(
    a: Record, b: Record, stages: Sequence[str] | None, yardstick: str
) -> tuple[list[Row], list[str]]:
    """A row for each stage of each variant that was timed in both, and a note for each other."""
    old, new = ({_identity(case): case for case in result["cases"]} for result in (a, b))
    made: dict[str, list[Row]] = {stage: [] for stage in stages or ("total", "graph")}
    notes = []
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            notes.append(f"only in {'A' if name in old else 'B'}: {name}")
            continue
        was, now = (_timed(case[name]) for case in (old, new))
        for key in dict.fromkeys([*was, *now]):
            if key in was and key in now:
                if was[key]["title"] != now[key]["title"]:
                    titles = f"{was[key]['title']} in A, {now[key]['title']} in B"
                    notes.append(f"not the same: {name}, {titles}")
            elif key in was and not was[key]["peer"]:
                notes.append(f"{_LOST}: {name}, {was[key]['title']}{_why(new[name], key)}")
            else:
                only = was.get(key) or now[key]
                notes.append(f"timed only in {'A' if key in was else 'B'}: {name}, {only['title']}")
        for stage, found in made.items():
            found += _stage_rows(name, stage, (old[name], new[name]), (was, now), yardstick)
    return [row for found in made.values() for row in _with_noise(found, yardstick)], notes


def _with_noise(found: Sequence[Row], yardstick: str) -> list[Row]:
    """With the noise of one stage. What is divided by something else than asked for is no peer."""
    peers = [row for row in found if row.peer and row.yardstick == yardstick]
    changes = [row.ratio.change for row in peers if row.ratio]
    noise = max(LEAST_NOISE, statistics.median(changes)) if changes else LEAST_NOISE
    return [replace(row, noise=noise) for row in found]


def _stage_rows(
    name: str,
    stage: str,
    cases: tuple[Record, Record],
    timed: tuple[dict[str, Record], dict[str, Record]],
    yardstick: str,
) -> list[Row]:
    was, now = timed
    shown = name if stage == "total" else f"{name}, {stage}"
    made = []
    for key in (key for key in was if key in now):
        a, b = (_rounds(side[key], stage) for side in timed)
        if not a or not b:
            continue
        by, divisors = _yardstick(key, stage, cases, timed, yardstick)
        found = None
        if min(len(a), len(b)) >= LEAST_ROUNDS:
            found = ratio(
                *(np.divide(run, by_it) for run, by_it in zip((a, b), divisors, strict=True))
            )
        medians = float(np.median(a)), float(np.median(b))
        made.append(Row(shown, was[key]["title"], was[key]["peer"], *medians, found, by))
    return made


def _yardstick(
    key: str,
    stage: str,
    cases: tuple[Record, Record],
    timed: tuple[dict[str, Record], dict[str, Record]],
    wanted: str,
) -> tuple[str, list[Any]]:
    """Its name, and what to divide A and B by: its rounds, or 1.

    The one asked for; the copy where there is no eager reference; none where no copy.
    """
    if wanted == EAGER and key != EAGER and all(EAGER in side for side in timed):
        rounds = [_rounds(side[EAGER], stage) for side in timed]
        if all(rounds):
            return EAGER, rounds
    if wanted != NONE and all("copy" in case for case in cases):
        return COPY, [case["copy"]["rounds_ms"] for case in cases]
    return NONE, [1.0, 1.0]


def _rounds(variant: Record, stage: str) -> list[float] | None:
    if stage == "graph":
        graph = variant.get("graph")
        return graph["rounds_ms"] if graph and graph["status"] == "ok" else None
    return variant["rounds_ms"].get(stage)


def _timed(case: Record) -> dict[str, Record]:
    return {v["key"]: v for v in case["variants"] if v["status"] == "ok"}


def _why(case: Record, key: str) -> str:
    variant = next((v for v in case["variants"] if v["key"] == key), None)
    return f" ({variant['status']}, {variant['reason']})" if variant else ""


def _identity(case: Record) -> str:
    names = [str(case[name]) for name in _IDENTITY if name in case]
    # The same name may be another batch on another device.
    sizes = [pair["student"][0] for pair in case.get("pairs", [])[:1]]
    return ", ".join([*names, *(f"B = {size}" for size in sizes)])


def render(compared: Sequence[Row]) -> str:
    cells = [
        (
            *(row.case, row.variant, f"{row.a_ms:.4g}", f"{row.b_ms:.4g}", str(row.ratio or "-")),
            *(row.yardstick, f"{100 * row.noise:.0f} %", row.told),
        )
        for row in compared
    ]
    return "\n".join(table.lines(_HEADER, cells))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("a", type=Path, metavar="A.json", help="before the change")
    made.add_argument("b", type=Path, metavar="B.json", help="after it")
    made.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        help="total is forward and backward (default: total, and graph on a GPU)",
    )
    made.add_argument(
        "--yardstick",
        choices=(EAGER, COPY, NONE),
        default=EAGER,
        help="what the times of a round are divided by (%(default)s)",
    )
    return made
