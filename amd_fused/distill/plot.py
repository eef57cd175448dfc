"""One picture of an experiment: test accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from amd_fused.distill.config import Config
from amd_fused.distill.data import Dataset
from amd_fused.distill.experiment import AMD_G, AMD_GL, KD, METHODS, SCRATCH, TEACHER
from amd_fused.distill.train import Run

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = {
    TEACHER.key: "#000000",
    SCRATCH.key: "#7F7F7F",
    KD.key: "#E69F00",
    AMD_G.key: "#56B4E9",
    AMD_GL.key: "#009E73",
}
TICKS = (0, 50, 70, 80, 85, 90, 93, 95, 97, 98, 99, 100)


def plot_curves(path: Path, config: Config, data: Dataset, runs: Sequence[Run]) -> None:
    """Mean over seeds within a band from the lowest to the highest; the teacher as a level.

    The teacher trains on other images for other epochs, so its curve would not compare.
    """
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    _accuracy_scale(axes)
    for method in METHODS:
        curves = np.array([_curve(run) for run in runs if run.method == method.key])
        mean = curves.mean(axis=0)
        colour, label = COLOURS[method.key], f"{method.label}: {mean[-1]:.2f} %"
        if method is TEACHER:
            axes.axhline(mean[-1], color=colour, linestyle="--", linewidth=1.2, label=label)
            continue
        epochs = np.arange(1, len(mean) + 1)
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, mean, color=colour, linewidth=1.8, marker=marker, label=label)
        lowest, highest = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Test accuracy (%)")
    several = f"mean and range over {config.seeds} seeds"
    axes.set_title(
        f"WRN{config.teacher} to WRN{config.student}, {config.train_size} training images of "
        f"{data.name}\n{several if config.seeds > 1 else '1 seed'}",
        fontsize=11,
    )
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.legend(loc="outside lower center", ncols=3, title="After the last epoch", frameon=False)
    figure.savefig(path, dpi=150)


def _curve(run: Run) -> list[float]:
    return [epoch.test_accuracy for epoch in run.epochs]


def _accuracy_scale(axes: Axes) -> None:
    """Logarithmic in the error, which spreads out the last percent, where the methods differ."""
    above = 100.5  # finite at 100 %

    def forward(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.log(np.maximum(above - accuracy, 1e-3))

    def inverse(height: NDArray[np.float64]) -> NDArray[np.float64]:
        return above - np.exp(-height)

    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(0, 100)
    axes.set_yticks(TICKS, [str(tick) for tick in TICKS])
