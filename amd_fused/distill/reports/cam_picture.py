"""Grad-CAM as one picture: a panel a level, in it a row a network and a column an image."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from amd_fused.distill.reports.gradcam import LEVELS, GradCam, NetworkCams, heat

# In inches: of a cell at least, and of all cells together while that leaves more to each.
_CELL, _WIDTH = 0.4, 9.0
_PIXELS = 96  # a cell's, about: 128 of an image of 64
_COLOURS = "coolwarm"
_STRENGTH = 0.6  # of the heat over the image


def cam_picture(found: GradCam) -> Figure:
    """The images above, then a row a network; red regions count for the label, blue ones do not."""
    count = len(found.indices)
    pixels = found.images
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.mean(1, keepdim=True)
    images = _cells(pixels.expand(-1, 3, -1, -1))
    side = images.shape[1]
    levels = max(len(network.layers) for network in found.networks)
    down = len(found.networks) + 1
    # Long names stand aslant.
    names_below = [name if len(name) <= 12 else name[:11] + "…" for name in found.class_names]
    longest = max(map(len, names_below))
    slope = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if longest > 6 else {}
    cell = max(_CELL, min(0.62, _WIDTH / (levels * count)))
    figure = Figure(
        figsize=(
            1.6 + levels * (count * cell + 0.15),
            down * cell + 0.6 + (0.05 * longest if slope else 0.0),
        ),
        layout="constrained",
    )
    all_axes = figure.subplots(1, levels, squeeze=False)[0]
    for level, axes in enumerate(all_axes):
        rows = [images, *(_row(found, network, level, images) for network in found.networks)]
        axes.imshow(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
        for k in range(1, max(down, count)):
            for line, used in ((axes.axhline, k < down), (axes.axvline, k < count)):
                if used:
                    line(k * side - 0.5, color="white", linewidth=1.5)
        names = ["image", *(network.label for network in found.networks)] if level == 0 else []
        middles = [side * (row + 0.5) for row in range(len(names))]
        axes.set_yticks(
            middles, [textwrap.fill(name, 22) for name in names], fontsize=9, parse_math=False
        )
        middles = [side * (column + 0.5) for column in range(count)]
        axes.set_xticks(middles, names_below, fontsize=8, parse_math=False, **slope)
        axes.tick_params(length=0)
        axes.set_title(f"{LEVELS[level]} level" if levels == 3 else f"map {level + 1}", fontsize=10)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _row(
    found: GradCam, network: NetworkCams, level: int, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`[n, side, side, 3]`: grey images under the heat; white where the network has no such map."""
    if level >= len(network.maps):
        return np.ones_like(images)
    side = images.shape[1]
    colours = matplotlib.colormaps[_COLOURS](heat(network.maps[level], side).cpu().numpy())[..., :3]
    grey = images.mean(axis=3, keepdims=True)
    return ((1 - _STRENGTH) * grey + _STRENGTH * colours).astype(np.float32)


def _cells(images: Tensor) -> NDArray[np.float32]:
    """`[n, 3, H, W]` to `[n, side, side, 3]` of about `_PIXELS`; enlarged pixels stay squares."""
    size = max(images.shape[-2:])
    if size <= _PIXELS:
        times = max(1, round(_PIXELS / size))
        shown = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    else:
        shown = functional.interpolate(images, (_PIXELS, _PIXELS), mode="area")
    return np.ascontiguousarray(torch.movedim(shown, 1, 3).cpu().numpy())
