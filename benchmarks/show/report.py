"""Tables and pictures of result files: `report.md`, and PNG files beside it.

Of losses: time against the floor, and peak memory. Of siblings: time against the floor. Of scaling:
cost against size. Files of several machines are kept apart; each picture names the device, the
versions, the date and the commit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import environment, results
from benchmarks.measure.subject import ATTENTION, WHOLE
from benchmarks.show import table

_TITLES = {
    "losses": "Losses, forward and backward",
    "siblings": "Sibling losses, forward and backward",
    "scaling": "How cost grows",
    "host": "Host time",
    "training": "Training steps",
}
# Of each part of the loss, the variant whose peers the others are.
_OURS = {WHOLE: "amd_fused", ATTENTION: "attention"}
_SUMMARY = (
    "Milliseconds, medians{where}. Ours: in brackets, how many times the floor that is. Peers: how "
    "many times faster ours is, the first of the same part of the loss."
)


@dataclass(frozen=True)
class Source:
    """A result file, and what was in it."""

    path: Path
    result: dict[str, Any]

    @property
    def command(self) -> str:
        return self.result["command"]

    @property
    def machine(self) -> str:
        return machine_name(self.result["environment"])


def machine_name(machine: dict[str, Any]) -> str:
    """Device, and threads of a CPU: what keeps results apart."""
    threads = f", {machine['threads']} threads"
    return machine["device"] + (threads if machine["device_type"] == "cpu" else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report of the files. 2 if one of them is no result file of this schema."""
    made = parser()
    options = made.parse_args(arguments)
    paths = options.files or sorted(
        path for path in results.FOLDER.glob("*.json") if not path.stem.endswith("-summary")
    )
    if options.skip_missing:
        paths = [path for path in paths if path.exists()]
    try:
        sources = [Source(path, results.read(path)) for path in paths]
    except ValueError as error:
        made.error(str(error))
    if not sources:
        print("benchmarks report: there are no result files")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = {source.path: draw(source, options.out) for source in sources}
    text = render(sources, pictures)
    if not environment.has("matplotlib"):
        print("pictures left out: matplotlib is not installed; pip install 'amd_fused[bench]'")
    written = options.out / "report.md"
    written.write_text(text)
    names = [written.name, *(picture.name for drawn in pictures.values() for picture in drawn)]
    print(f"written to {options.out}: {', '.join(names)}")
    return 0


def draw(source: Source, folder: Path) -> list[Path]:
    """The pictures of a file, named after it; none where matplotlib is missing."""
    if not environment.has("matplotlib") or not source.result["cases"]:
        return []
    from benchmarks.show import pictures

    drawn = []
    for name, make in pictures.OF_COMMAND.get(source.command, {}).items():
        drawn.append(folder / f"{source.path.stem}-{name}.png")
        pictures.save(make(source.result), drawn[-1])
    return drawn


def render(sources: Sequence[Source], pictures: dict[Path, list[Path]]) -> str:
    """The whole report: a section a machine, in it one a file."""
    order = list(_TITLES)
    blocks = ["# Benchmark report"]
    for machine in dict.fromkeys(source.machine for source in sources):
        blocks.append(f"## {machine}")
        mine = [source for source in sources if source.machine == machine]
        for source in sorted(mine, key=lambda source: order.index(source.command)):
            told = table.render_environment(source.result["environment"])
            unfinished = "" if source.result["finished"] else " The run was stopped before its end."
            blocks += [f"### {_TITLES[source.command]}", f"`{source.path.name}`"]
            blocks += [f"{told}.{unfinished}"]
            blocks += [f"![{picture.stem}]({picture.name})" for picture in pictures[source.path]]
            blocks += _figures(source)
    return "\n\n".join(blocks) + "\n"


def _figures(source: Source) -> list[str]:
    """Tables of a file. Where there is a summary, the terminal's tables are folded away."""
    cases = source.result["cases"]
    legend = table.legend(source.result)
    if source.command in ("host", "training"):
        return [legend, *map(table.render_case, cases)]
    cases = ordered(cases)
    blocks = [summary(cases)]
    if cached := [
        case["shape"] for case in cases if fits_cache(case, source.result["environment"])
    ]:
        names = ", ".join(dict.fromkeys(cached))
        blocks.append(f"All sets of inputs together fit into the last-level cache: {names}.")
    folded = f"<details><summary>All figures</summary>\n\n{legend}"
    return [*blocks, folded, *map(table.render_case, cases), "</details>"]


def summary(cases: Sequence[dict[str, Any]]) -> str:
    """A table a subject: a row a case, a column a variant; milliseconds, and what they are beside
    ours."""
    on_gpu = any(v.get("graph") for case in cases for v in case["variants"])
    where = ", replayed in a CUDA graph where the variant can be" if on_gpu else ""
    subjects: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        subjects.setdefault(case["subject"], []).append(case)
    tables = [
        "\n".join(_subject_table(subject if len(subjects) > 1 else "case", its))
        for subject, its in subjects.items()
    ]
    return "\n\n".join([_SUMMARY.format(where=where), *tables])


def _subject_table(title: str, cases: Sequence[dict[str, Any]]) -> list[str]:
    titles = {v["key"]: v["title"] for case in cases for v in case["variants"]}
    rows = []
    for case in cases:
        variants = {v["key"]: v for v in case["variants"]}
        cells = [_cell(variants[key], variants, case) if key in variants else "-" for key in titles]
        rows.append((table.name(case), f"{case['floor_ms']['total']:.3f}", *cells))
    return table.lines((title, "floor", *titles.values()), rows)


def ordered(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By subject, shape, layout and dtype, each in the order in which it was first measured."""
    names = ("subject", "shape", "layout", "dtype")
    seen = {name: list(dict.fromkeys(case[name] for case in cases)) for name in names}
    return sorted(cases, key=lambda case: [seen[name].index(case[name]) for name in names])


def timed(variant: dict[str, Any]) -> dict[str, Any] | None:
    """Spread of forward and backward: on a GPU its time alone if there is a graph; or None."""
    if variant["status"] != "ok":
        return None
    graph = variant["graph"]
    return graph["total_ms"] if graph and graph["status"] == "ok" else variant["total_ms"]


def milliseconds(variant: dict[str, Any]) -> float | None:
    """The median of :func:`timed`."""
    found = timed(variant)
    return found["median"] if found else None


def fits_cache(case: dict[str, Any], machine: dict[str, Any]) -> bool:
    """Whether rotating the inputs was not enough: there are at most 128 sets."""
    # An ideal forward pass reads one set once.
    together = case["input_sets"] * case["ideal_bytes"]["forward"]
    return together <= machine["last_level_cache_bytes"]


def _cell(
    variant: dict[str, Any], variants: dict[str, dict[str, Any]], case: dict[str, Any]
) -> str:
    ms = milliseconds(variant)
    if ms is None:
        return variant["status"]
    shown = f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"
    if not variant["peer"]:
        return f"{shown} ({ms / case['floor_ms']['total']:.2f})"
    ours = variants.get(_OURS[variant["part"]])
    against = milliseconds(ours) if ours else None
    return f"{shown} ({ms / against:.1f}x)" if against else shown


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    made.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="of losses, siblings, scaling, host or training (default: all in benchmarks/results)",
    )
    made.add_argument(
        "--out", type=Path, default=results.FOLDER, metavar="FOLDER", help="default: %(default)s"
    )
    made.add_argument("--skip-missing", action="store_true", help="leave out files not there")
    return made
