"""The AMD loss in mpmath, formula by formula from the paper: the oracle of the tests.

Shares nothing with amd_fused: plain loops over nested numbers, 30 digits, arccos and cos as the
paper writes them. Slow, hence for small maps; its gradient is a central difference, good to some 15
digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

mp.dps = 30
STEP = mpf(10) ** -9

# An array [B, C, H, W], or one for each layer.
Side = np.ndarray | Sequence[np.ndarray]
# {(row, column): value} for one sample.
Map = dict[tuple[int, int], Any]


def amd_loss(student: Side, teacher: Side, *, reduction: str = "mean", **options: Any) -> Any:
    """An mpf, or a list of B of them for reduction="none". Options as in amd_fused.amd_loss."""
    samples = range(len(_layers(student)[0]))
    losses = [
        sample_loss(
            [a[b] for a in _layers(student)],
            [a[b] for a in _layers(teacher)],
            positions="sum" if reduction == "batchmean" else "mean",
            **options,
        )
        for b in samples
    ]
    return losses if reduction == "none" else sum(losses) / len(losses)


def gradient(
    student: Side,
    teacher: Side,
    entries: Iterable[tuple[int, int, int, int]] | None = None,
    *,
    layer: int = 0,
    reduction: str = "mean",
    **options: Any,
) -> dict[tuple[int, int, int, int], float]:
    """d amd_loss / d student[layer][entry], for all entries or the given ones.

    For the gradient by the teacher swap the two. For reduction="none": of the sum of the losses.
    """
    students, teachers = _layers(student), _layers(teacher)
    batch = len(students[layer])
    share = 1 if reduction == "none" else batch
    positions = "sum" if reduction == "batchmean" else "mean"
    result = {}
    for entry in np.ndindex(students[layer].shape) if entries is None else entries:
        b, *where = entry
        side_t = [a[b] for a in teachers]
        losses = []
        for sign in (1, -1):
            side_s = [a[b] for a in students]
            moved = side_s[layer].astype(object)
            moved[tuple(where)] = mpf(float(moved[tuple(where)])) + sign * STEP
            side_s[layer] = moved
            losses.append(sample_loss(side_s, side_t, positions=positions, **options))
        result[entry] = float((losses[0] - losses[1]) / (2 * STEP) / share)
    return result


def sample_loss(
    student: Sequence[np.ndarray],
    teacher: Sequence[np.ndarray],
    *,
    positions: str,
    margin: float = 1.35,
    scale: float = 64.0,
    local_weight: float = 0.2,
    formula: str = "paper",
    component_weights: Sequence[float] = (1.0, 1.0, 1.0),
    mask_threshold: float | None = None,
    layer_weights: Sequence[float] | None = None,
    eps: float = 1e-6,
) -> Any:
    """One sample: lists of layers, each [C, H, W]. Options are taken as the doubles they are."""
    w = mpf(local_weight)
    total = mpf(0)
    for index, (a_s, a_t) in enumerate(zip(student, teacher, strict=True)):
        maps_s = angular_maps(a_s, margin, scale, formula, mask_threshold, eps)
        maps_t = angular_maps(a_t, margin, scale, formula, mask_threshold, eps)
        _, height, width = a_s.shape
        everywhere = [(i, j) for i in range(height) for j in range(width)]
        loss = (1 - w) * region_loss(maps_s, maps_t, everywhere, component_weights, positions)
        if local_weight > 0:  # Eq. 9
            local = mpf(0)
            for lower in (False, True):
                for right in (False, True):
                    quadrant = [
                        (i, j)
                        for i, j in everywhere
                        if (i >= height // 2) == lower and (j >= width // 2) == right
                    ]
                    local += region_loss(maps_s, maps_t, quadrant, component_weights, positions)
            loss += w * local / 4
        total += loss * (1 if layer_weights is None else mpf(layer_weights[index]))
    return total / len(student)


def angular_maps(
    a: np.ndarray,
    margin: float,
    scale: float,
    formula: str = "paper",
    mask_threshold: float | None = None,
    eps: float = 1e-6,
) -> tuple[Map, Map, Map]:
    """g, p and n of one sample's features [C, H, W]."""
    channels, height, width = a.shape
    everywhere = [(i, j) for i in range(height) for j in range(width)]
    # Eq. 4
    f = {(i, j): mp.fsum(_exact(a[c, i, j]) ** 2 for c in range(channels)) for i, j in everywhere}
    norm = mp.sqrt(mp.fsum(x**2 for x in f.values())) + mpf(eps)
    g, p, n = {}, {}, {}
    for i, x in f.items():
        # Section 4.2. For eps = 0 an all-zero map has q = 0; q = 1 may come out an ulp above it.
        q = min(x / norm, mpf(1)) if norm else mpf(0)
        n[i] = 1 - q
        if mask_threshold is not None and not n[i] > mpf(mask_threshold):
            n[i] = mpf(0)
        # Eq. 6, its logarithm as log(1 / (1 + e^(s n - s t)))
        t = mp.cos(mpf(margin) * mp.acos(q))
        g[i] = -mp.log1p(mp.exp(mpf(scale) * (n[i] - t)))
        p[i] = t if formula == "released" else q
    return g, p, n


def region_loss(
    maps_s: Sequence[Map],
    maps_t: Sequence[Map],
    region: Sequence[tuple[int, int]],
    component_weights: Sequence[float],
    positions: str,
) -> Any:
    """Eq. 7 in one region, for one sample."""
    loss = mpf(0)
    for weight, x_s, x_t in zip(component_weights, maps_s, maps_t, strict=True):
        length_s, length_t = (
            max(mp.sqrt(mp.fsum(x[i] ** 2 for i in region)), mpf("1e-12")) for x in (x_s, x_t)
        )
        distance = mp.fsum((x_s[i] / length_s - x_t[i] / length_t) ** 2 for i in region)
        loss += mpf(weight) * distance / (len(region) if positions == "mean" else 1)
    return loss / 3


def _layers(side: Side) -> list[np.ndarray]:
    return [side] if isinstance(side, np.ndarray) else list(side)


def _exact(x: Any) -> Any:
    return x if isinstance(x, mpf) else mpf(float(x))
