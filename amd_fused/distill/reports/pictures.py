"""Pictures of numbers: learning curves, loss parts, reliability, AMD distance against accuracy."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amd_fused.distill.methods.term import Look
from amd_fused.distill.reports.groups import TEACHER_KEY
from amd_fused.distill.reports.numbers import Curve, GroupNumbers, Reliability, SetupNumbers
from amd_fused.distill.reports.style import (
    accuracy_axis,
    epoch_axis,
    legend_below,
    looks,
    panels,
    title,
)

_PARTS = {"ce": "cross entropy (ce)", "kd": "teacher's logits (kd)"}


def accuracy_curves(setup: SetupNumbers) -> Figure | None:
    """A panel a method; None where no run has epochs."""
    return _curves(setup, lambda group: group.top1, "Test top-1 (%)", accuracy=True)


def loss_curves(setup: SetupNumbers) -> Figure | None:
    """A panel a method; None where no run has epochs."""
    return _curves(setup, lambda group: group.loss, "Training loss", accuracy=False)


def loss_parts(setup: SetupNumbers) -> Figure | None:
    """A panel a part of the loss, before weighting, with the mean over seeds of each method."""
    groups = [group for group in setup.groups if any(c.mean for c in group.parts.values())]
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))
    if not parts:
        return None
    look = _looks(setup)
    figure, all_axes = panels(len(parts), height=2.9, columns=3, share_y=False)
    handles = {}
    for axes, part in zip(all_axes, parts, strict=True):
        curves = {group.name: group.parts[part] for group in groups if part in group.parts}
        values = [value for curve in curves.values() for value in curve.mean]
        for name, curve in curves.items():
            (handles[name],) = _line(axes, curve, look[name], name)
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        title(axes, _PARTS.get(part, part), 34)
        epoch_axis(axes)
    # Not for the whole figure: that would stand below the legend.
    for axes in all_axes[-3:]:
        axes.set_xlabel("Epoch", fontsize=9.5)
    ordered = [handles[group.name] for group in groups if group.name in handles]
    legend_below(figure, ordered)
    return figure


def reliability(setup: SetupNumbers) -> Figure | None:
    """Accuracy by confidence, a panel a method: above the diagonal it is underconfident."""
    groups = [(group, group.reliability) for group in setup.groups]
    drawn = [(group, bins) for group, bins in groups if bins is not None and any(bins.count)]
    if not drawn:
        return None
    look = _looks(setup)
    figure, all_axes = panels(len(drawn), height=3.0)
    for axes, (group, bins) in zip(all_axes, drawn, strict=True):
        _reliability_panel(axes, bins, look[group.name])
        ece = "" if bins.ece is None else f"\nECE {_with_std(bins.ece.mean, bins.ece.std)} %"
        title(axes, group.name)
        axes.set_title(axes.get_title() + ece, fontsize=10)
    figure.supxlabel("Confidence", fontsize=10)
    figure.supylabel("Accuracy", fontsize=10)
    return figure


def distance_and_accuracy(setup: SetupNumbers) -> Figure | None:
    """Fig. 6: a point a run; None for fewer than two."""
    groups = [group for group in setup.groups if group.distances]
    if sum(len(group.distances) for group in groups) < 2:
        return None
    look = _looks(setup)
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    axes = figure.subplots()
    for group in groups:
        own = look[group.name]
        distances = [point.amd_distance for point in group.distances]
        top1 = [point.top1 for point in group.distances]
        axes.plot(
            distances,
            top1,
            own.marker,
            color=own.colour,
            markersize=7,
            alpha=0.85,
            fillstyle="full" if own.line == "-" else "none",
            markeredgewidth=1.5,
            label=group.name,
        )
    axes.set_xlabel("AMD distance between student and teacher, on the test images", fontsize=10)
    axes.set_ylabel("Test top-1 (%)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.08)
    # The smallest distance may lie a thousandfold below the largest.
    every = [point.amd_distance for group in groups for point in group.distances]
    if min(every) > 0 and max(every) > 20 * min(every):
        axes.set_xscale("log")
    else:
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4))
    if setup.correlation is not None:
        axes.set_title(f"Pearson's correlation {setup.correlation:+.2f}", fontsize=10)
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9.5)
    return figure


def _curves(
    setup: SetupNumbers, take: Callable[[GroupNumbers], Curve], label: str, *, accuracy: bool
) -> Figure | None:
    """Seeds as thin lines, their mean as a thick one, accuracies of the other methods in grey."""
    groups = [group for group in setup.groups if any(take(group).values)]
    if not groups:
        return None
    look = _looks(setup)
    figure, all_axes = panels(len(groups))
    for axes, group in zip(all_axes, groups, strict=True):
        for other in groups:
            # Losses do not compare, nor does the teacher, which trains by another recipe.
            if accuracy and TEACHER_KEY not in (other.key, group.key) and other is not group:
                curve = take(other)
                axes.plot(curve.mean_epochs, curve.mean, color="#D2D2D2", linewidth=0.9, zorder=1)
        curve, own = take(group), look[group.name]
        if len(curve.seeds) > 1:
            for epochs, values in zip(curve.epochs, curve.values, strict=True):
                axes.plot(epochs, values, color=own.colour, linewidth=0.7, alpha=0.6)
        (line,) = _line(axes, curve, own, group.name)
        line.set_linestyle("-")
        last = f": {curve.mean[-1]:.2f}" if curve.mean else ""
        title(axes, f"{group.name}{last}{' %' if last and accuracy else ''}")
        epoch_axis(axes)
    values = [value for group in groups for line in take(group).values for value in line]
    if accuracy:
        accuracy_axis(all_axes[0], values)
    elif min(values) > 0 and max(values) > 20 * min(values):
        all_axes[0].set_yscale("log")
    figure.supxlabel("Epoch", fontsize=10)
    figure.supylabel(label, fontsize=10)
    return figure


def _line(axes: Axes, curve: Curve, look: Look, label: str) -> list[Line2D]:
    marker = look.marker if len(curve.mean) == 1 else None
    return axes.plot(
        curve.mean_epochs,
        curve.mean,
        color=look.colour,
        linestyle=look.line,
        linewidth=2.0,
        marker=marker,
        label=label,
        zorder=3,
    )


def _reliability_panel(axes: Axes, bins: Reliability, look: Look) -> None:
    total = sum(bins.count)
    width = [high - low for low, high in zip(bins.edges, bins.edges[1:], strict=False)]
    filled = [i for i, count in enumerate(bins.count) if count]
    axes.bar(
        [bins.edges[i] for i in filled],
        [bins.accuracy[i] for i in filled],
        [width[i] for i in filled],
        align="edge",
        # Bins with few images say little.
        color=[
            to_rgba(look.colour, 0.35 + 0.65 * min(1.0, bins.count[i] / (0.05 * total)))
            for i in filled
        ],
        edgecolor="white",
        linewidth=0.5,
    )
    axes.plot(
        [bins.confidence[i] for i in filled],
        [bins.accuracy[i] for i in filled],
        "o",
        color="black",
        markersize=3,
    )
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)


def _looks(setup: SetupNumbers) -> dict[str, Look]:
    return looks((group.key, group.name) for group in setup.groups)


def _with_std(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
