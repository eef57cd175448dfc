"""Pictures of result files, by matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from benchmarks.show import table
from benchmarks.show.report import fits_cache, machine_name, milliseconds, ordered, timed

Record = dict[str, Any]
_DPI = 110
_WIDTH = 10.0
# Keeps a label readable on a line.
_BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
_FLOOR, _CACHE = "floor (a plain copy)", "inputs in cache"
# Okabe and Ito's palette: told apart with any colour vision. Lines differ in their markers too.
_LINES = {
    "amd_fused": ("#0072B2", "o"),
    "amd_fused_triton": ("#56B4E9", "D"),
    "amd_fused_cuda": ("#56B4E9", "D"),
    "eager": ("#D55E00", "s"),
    "compile": ("#E69F00", "^"),
    "max-autotune": ("#CC79A7", "v"),
    "released": ("#7F7F7F", "X"),
}
_OTHER_LINE = ("#009E73", "P")
# What the variants of several losses have in common, for one legend.
_ROLES = {"amd_fused": "amd_fused", "eager": "eager", "compile": "torch.compile"}
_FLOOR_OF_ALL, _LEAST_FLOOR = "floor", 0.1
# Forward and backward of ours, and of the peers.
_OURS, _PEERS = ("#0072B2", "#7DB7DC"), ("#6E6E6E", "#B9B9B9")


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 64 colours, which is a third of the size and looks the same."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI, format="png")
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def floor_figure(result: Record) -> Figure:
    """A panel a case: bars of each variant's time, in units of the floor."""

    def about(case: Record) -> str:
        moved = f"{case['ideal_bytes']['total'] / 1e6:.0f} MB"
        speed = f"{case['copy']['bytes_per_second'] / 1e9:.0f} GB/s"
        return f"floor {case['floor_ms']['total']:.3g} ms: {moved} at {speed}"

    graphs = "Of one shade: both, in a CUDA graph. "
    text = (
        "Dark: forward; light: backward. "
        + graphs * (result["environment"]["device_type"] == "cuda")
        + "Dashed: the floor, in which a plain copy moves the bytes that must move (features read "
        "once, the student's once more, its gradient written), in the same run."
    )
    title = "Forward and backward, in units of the floor"
    return _panels(result, title, "time / floor", about, _time_bar, text)


def memory_figure(result: Record) -> Figure:
    """A panel a case: bars of each variant's peak memory, in units of the gradient."""
    text = (
        "Allocated at the highest during forward and backward, above what was there before. "
        "Dashed: the gradient alone, which must be allocated."
    )
    title = "Peak memory, in units of the student's gradient"
    label = "peak allocated / gradient"
    return _panels(result, title, label, _gradient, _memory_bar, text)


def scaling_figure(result: Record) -> Figure:
    """A panel a sweep, layout and dtype: each variant's time by size, log axes, and the floor."""
    cases = result["cases"]
    groups: dict[tuple[str, ...], list[Record]] = {}
    for case in cases:
        groups.setdefault((case["sweep"], case["layout"], case["dtype"]), []).append(case)
    rows = -(-len(groups) // 2)
    figure = Figure(figsize=(_WIDTH, 4.2 * rows + 1.1), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes in panels[len(groups) :]:
        axes.remove()
    for axes, key in zip(panels, groups, strict=False):
        _curves(axes, sorted(groups[key], key=lambda case: case["size"]), result["environment"])
    handles = {
        label: handle
        for axes in panels[: len(groups)]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # What is no variant comes last.
    labels = sorted(handles, key=lambda label: label in (_FLOOR, _CACHE))
    # The title is the legend's, because matplotlib would lay one over the other.
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=3,
        frameon=False,
        title=f"How cost grows: {machine_name(result['environment'])}",
        title_fontsize=12,
    )
    _caption(figure, result, "Medians and quartiles of forward and backward, one layer pair.")
    return figure


def siblings_figure(result: Record) -> Figure:
    """A row a case: a mark a variant, its time in units of ours, on a log axis, and the floor's."""
    cases = ordered(result["cases"])
    figure = Figure(figsize=(_WIDTH, 0.3 * len(cases) + 2.2), layout="constrained")
    axes = figure.subplots()
    labels, marked = [], {}
    for row, case in enumerate(cases):
        times = {v["key"]: milliseconds(v) for v in case["variants"]}
        ours = times.get("amd_fused")
        figures = f"{table.digits(ours)} ms" if ours else "no time"
        labels.append(f"{case['subject']}: {table.name(case)} ({figures})")
        for variant in case["variants"] if ours else ():
            if (ms := times[variant["key"]]) is not None:
                colour, marker = _LINES.get(variant["key"], _OTHER_LINE)
                (mark,) = axes.plot(ms / ours, row, marker, color=colour, markersize=6)
                marked[_ROLES.get(variant["key"], _short(variant["title"]))] = mark
        if ours:
            floor = case["floor_ms"]["total"] / ours
            (marked[_FLOOR_OF_ALL],) = axes.plot(floor, row, "|", color="black", markersize=10)
    axes.axvline(1.0, color=_LINES["amd_fused"][0], linewidth=0.9, zorder=0)
    axes.set_xscale("log")
    # A floor of bytes may be far off, where it is not these that take the time.
    axes.set_xlim(left=_LEAST_FLOOR)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    axes.set_xlabel("time / amd_fused", fontsize=9)
    axes.set_yticks(range(len(cases)), labels, fontsize=8)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    _quiet(axes)
    figure.legend(
        marked.values(),
        marked,
        loc="outside upper center",
        ncols=len(marked) or 1,
        frameon=False,
        title=f"Sibling losses, forward and backward: {machine_name(result['environment'])}",
        title_fontsize=12,
    )
    text = "In units of amd_fused's time, which is in brackets; medians. Further right is slower. "
    floor = f"Floor, from {_LEAST_FLOOR:g} on: a copy of the bytes, or products of the FLOPs."
    _caption(figure, result, text + floor)
    return figure


OF_COMMAND: dict[str, dict[str, Callable[[Record], Figure]]] = {
    "losses": {"floor": floor_figure, "memory": memory_figure},
    "siblings": {"peers": siblings_figure},
    "scaling": {"cost": scaling_figure},
}


# The lengths of a bar's segments, and what stands beside it.
Bar = tuple[tuple[float, ...], str]


def _panels(
    result: Record,
    title: str,
    label: str,
    about: Callable[[Record], str],
    bar: Callable[[Record, Record], Bar],
    caption: str,
) -> Figure:
    """A panel of bars a case; two beside each other, so that the text stays large enough."""
    cases = ordered(result["cases"])
    rows = -(-len(cases) // 2)
    most = max(len(case["variants"]) for case in cases)
    figure = Figure(figsize=(_WIDTH, rows * (0.25 * most + 0.95) + 1.0), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes in panels[len(cases) :]:
        axes.remove()
    for left, right in zip(panels[::2], panels[1 : len(cases) : 2], strict=False):
        right.sharey(left)
        right.tick_params(labelleft=False)
    figure.suptitle(f"{title}: {machine_name(result['environment'])}", fontsize=12)
    for axes, case in zip(panels, cases, strict=False):
        _bars(axes, case["variants"], [bar(variant, case) for variant in case["variants"]])
        axes.set_title(f"{table.name(case)}\n{about(case)}", fontsize=9)
        axes.set_xlabel(label, fontsize=9)
    _caption(figure, result, caption)
    return figure


def _time_bar(variant: Record, case: Record) -> Bar:
    ms, floor_ms = milliseconds(variant), case["floor_ms"]["total"]
    if ms is None:
        return (), variant["status"]
    label = f"{ms / floor_ms:.2f} ({table.digits(ms)} ms)"
    if ms != variant["total_ms"]["median"]:
        return (ms / floor_ms,), label
    forward = variant["forward_ms"]["median"]
    return (forward / floor_ms, (ms - forward) / floor_ms), label


def _memory_bar(variant: Record, case: Record) -> Bar:
    if variant["status"] != "ok":
        return (), variant["status"]
    peak, gradient = variant["peak_extra_bytes"], case["gradient_bytes"]
    return (peak / gradient,), f"{peak / gradient:.2f} ({table.digits(peak / 1e6)} MB)"


def _gradient(case: Record) -> str:
    return f"gradient {case['gradient_bytes'] / 1e6:.3g} MB"


def _bars(axes: Axes, variants: Sequence[Record], bars: Sequence[Bar]) -> None:
    """A horizontal bar a variant, the first on top, and a dashed line at 1."""
    longest = max((sum(segments) for segments, _ in bars), default=0.0)
    for row, (variant, (segments, label)) in enumerate(zip(variants, bars, strict=True)):
        left = 0.0
        for segment, colour in zip(segments, _PEERS if variant["peer"] else _OURS, strict=False):
            axes.barh(row, segment, left=left, height=0.68, color=colour)
            left += segment
        # Beside the bar; where there is none, beside the line at 1.
        beside = (left if segments else 1.0) + 0.015 * longest
        axes.text(beside, row, label, va="center", fontsize=8, bbox=_BEHIND_TEXT)
    axes.axvline(1.0, color="black", linestyle="--", linewidth=1.1)
    axes.set_yticks(range(len(variants)), [_short(v["title"]) for v in variants], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    # The first on top; not `invert_yaxis`, which would turn panels that share the axis twice.
    axes.set_ylim(len(variants) - 0.5, -0.5)
    # Room for the longest bar's label.
    axes.set_xlim(0, 1.5 * max(longest, 1.0))
    _quiet(axes)


def _curves(axes: Axes, cases: Sequence[Record], environment: Record) -> None:
    sizes = [case["size"] for case in cases]
    titles = {v["key"]: v["title"] for case in cases for v in case["variants"]}
    # The attention part alone belongs to the bars: here it would hide what it is compared with.
    whole = {v["key"] for case in cases for v in case["variants"] if v["part"] == "whole"}
    for key in (key for key in titles if key in whole):
        points = [
            (case["size"], found["median"], found["q1"], found["q3"])
            for case in cases
            for v in case["variants"]
            if v["key"] == key and (found := timed(v))
        ]
        if not points:
            continue
        x, middle, low, high = zip(*points, strict=True)
        colour, marker = _LINES.get(key, _OTHER_LINE)
        axes.plot(x, middle, color=colour, marker=marker, markersize=5, label=_short(titles[key]))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    floors = [case["floor_ms"]["total"] for case in cases]
    axes.plot(sizes, floors, color="black", linestyle="--", label=_FLOOR)
    cached = [case["size"] for case in cases if fits_cache(case, environment)]
    if cached:
        axes.axvspan(min(sizes), max(cached), color="#F2F2F2", zorder=0, label=_CACHE)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.set_xlabel(_size_label(cases[0]))
    axes.set_ylabel("forward and backward (ms)")
    axes.set_title(f"{cases[0]['sweep']}, {cases[0]['layout']}, {cases[0]['dtype']}", fontsize=10)
    _quiet(axes)
    axes.grid(which="major", axis="both", color="#E4E4E4", linewidth=0.7)


def _size_label(case: Record) -> str:
    batch, channels, height, width = case["pairs"][0]["student"]
    if case["sweep"] == "batch":
        return f"batch (maps of {channels} x {height} x {width})"
    return f"height = width of the maps ({channels} channels, batch {batch})"


def _short(title: str) -> str:
    """For a tick: `torch.compile reference` and the like without what goes without saying."""
    return title.removesuffix(" reference")


def _caption(figure: Figure, result: Record, text: str) -> None:
    """What the picture shows, and the machine, the versions, the commit and the date."""
    said = f"{text} {table.render_environment(result['environment'])}"
    figure.supxlabel("\n".join(textwrap.wrap(said, 155)), x=0.01, ha="left", fontsize=8)


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
