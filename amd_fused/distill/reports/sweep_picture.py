"""Accuracy by the terms of Eq. 7, by gamma or by margin, as in the paper's Figs. 5, 7 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amd_fused._files import write_atomically
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods.term import Look
from amd_fused.distill.reports.groups import TEACHER_KEY, Setup, Statistic, arrange
from amd_fused.distill.reports.runs import gather
from amd_fused.distill.reports.style import legend_below, looks, own_look, png
from amd_fused.distill.reports.variants import matters, variant_texts
from amd_fused.distill.setting import value_text

# A dash pattern a teacher.
_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (7, 2, 2, 2)), (0, (1, 1)))
_AXES = {
    "gamma": "γ, weight of the AMD loss",
    "margin": "m, angular margin",
    "components": "terms of Eq. 7: a of maps with the margin, p of positive, n of negative maps",
}


@dataclass(frozen=True)
class Line:
    """Test top-1 of one method under one teacher, by the values of what is swept."""

    key: str
    name: str
    teacher: str
    points: dict[float | str, Statistic]


@dataclass(frozen=True)
class Level:
    """What does not depend on it: a teacher, or KD under a teacher."""

    key: str
    name: str
    teacher: str
    top1: Statistic


def write_sweep_picture(folders: Sequence[Path], out: Path, x: str) -> Path:
    """Accuracy by the setting `x` of the finished runs at or below `folders`, as a PNG at `out`.

    A panel a data set and student; where `out` is no .png but a folder, x names the file in it.

    Raises:
        UsageError: no student's method depends on `x`, or no finished run was found.
    """
    setups = arrange(gather(folders))
    panels: dict[str, tuple[list[Line], list[Level]]] = {}
    by_setup = [sweep_lines(setup, x) for setup in setups]
    # Where something was swept, methods with a single value would only be in the way.
    swept = any(len(line.points) > 1 for lines in by_setup for line in lines)
    for setup, all_lines in zip(setups, by_setup, strict=True):
        lines = [line for line in all_lines if len(line.points) > 1 or not swept]
        if lines:
            panel = panels.setdefault(f"{setup.data}, student {setup.student}", ([], []))
            panel[0].extend(lines)
            panel[1].extend(sweep_levels(setup))
    if not panels:
        raise UsageError(
            f"{', '.join(map(str, folders))}: a picture by {x} needs a student whose method "
            "depends on it; found none"
        )
    path = out if out.suffix == ".png" else out / f"{x}.png"
    picture = png(sweep_figure(panels, x))
    write_atomically(path, lambda part: part.write_bytes(picture))
    return path


def sweep_lines(setup: Setup, x: str) -> list[Line]:
    """A line a method, and a further one for each choice of other settings that differ."""
    found: dict[tuple[str, str], Line] = {}
    for group in setup.groups:
        top1 = group.statistic("top1")
        if top1 is None or group.key == TEACHER_KEY or not matters(x, group.runs[0].method):
            continue
        others = tuple((name, value) for name, value in group.variant if name != x)
        name = ", ".join([group.label, *variant_texts(others)])
        line = found.setdefault((group.key, name), Line(group.key, name, setup.teacher, {}))
        line.points[getattr(group.runs[0].settings, x)] = top1
    return list(found.values())


def sweep_levels(setup: Setup) -> list[Level]:
    """The teacher and KD, where the runs have them."""
    levels = []
    for group in setup.groups:
        top1 = group.statistic("top1")
        if group.key in (TEACHER_KEY, "kd") and top1 is not None:
            levels.append(Level(group.key, group.name, setup.teacher, top1))
    return levels


def sweep_figure(panels: dict[str, tuple[list[Line], list[Level]]], x: str) -> Figure:
    """A panel a key, with its lines and levels, by the setting `x`."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(7.2 if across == 1 else 11.5, 4.6 * down), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    every = [line for lines, _ in panels.values() for line in lines]
    own = looks((line.key, _full_name(line)) for line in every)
    handles = {}
    for axes, (name, (lines, levels)) in zip(grid, panels.items(), strict=False):
        values = sorted({value for line in lines for value in line.points}, key=_size)
        # Words stand side by side, numbers where they are.
        named = any(isinstance(value, str) for value in values)
        places = {value: float(k if named else value) for k, value in enumerate(values)}
        handles.update(_draw(axes, lines, levels, own, places, joined=not named))
        axes.set_title(name, fontsize=11, parse_math=False)
        axes.set_xlabel(_AXES.get(x, x.replace("_", " ")), fontsize=10.5)
        axes.set_ylabel("Test top-1 (%)", fontsize=10.5)
        if named or len(values) <= 8:
            axes.set_xticks(list(places.values()), list(map(value_text, values)))
        axes.grid(alpha=0.3)
    legend_below(figure, list(handles.values()), columns=2 if across == 1 else 3)
    return figure


def _size(value: float | str) -> tuple[float, str]:
    """Numbers by size, words by length."""
    return (float(len(value)), value) if isinstance(value, str) else (value, "")


def _draw(
    axes: Axes,
    lines: Sequence[Line],
    levels: Sequence[Level],
    own: dict[str, Look],
    places: dict[float | str, float],
    *,
    joined: bool,
) -> dict[str, Any]:
    """Draws a panel; the handles of its legend by their label.

    Args:
        places: where a value stands.
        joined: whether lines connect the values.
    """
    handles: dict[str, Any] = {}
    for line in lines:
        look = own[_full_name(line)]
        points = sorted((places[value], top1) for value, top1 in line.points.items())
        handles[_full_name(line)] = axes.errorbar(
            [place for place, _ in points],
            [top1.mean for _, top1 in points],
            yerr=[top1.std or 0.0 for _, top1 in points],
            color=look.colour,
            linestyle=look.line if joined else "none",
            marker=look.marker,
            markersize=7,
            linewidth=1.8,
            capsize=4,
            label=_full_name(line),
        )
    teachers = list(dict.fromkeys(level.teacher for level in levels))
    for level in levels:
        handles[_full_name(level)] = axes.axhline(
            level.top1.mean,
            color=own_look(level.key).colour,
            linestyle=_DASHES[teachers.index(level.teacher) % len(_DASHES)],
            linewidth=1.4,
            label=_full_name(level),
        )
    return handles


def _full_name(line: Line | Level) -> str:
    return f"{line.name}, T: {line.teacher}" if line.key != TEACHER_KEY else f"T: {line.teacher}"
