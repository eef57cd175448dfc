"""Relational KD from its formula, triplet by triplet, in float64."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def formula(student: Tensor, teacher: Tensor, distance: float, angle: float) -> float:
    """Triplet by triplet, in numpy."""
    sides = []
    for x in (student.double().flatten(1).numpy(), teacher.double().flatten(1).numpy()):
        batch = len(x)
        d = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(batch)] for i in range(batch)])
        cosine = np.zeros((batch, batch, batch))
        for i, j, k in np.ndindex(batch, batch, batch):
            if d[i, j] > 0 and d[i, k] > 0:
                cosine[i, j, k] = (x[j] - x[i]) @ (x[k] - x[i]) / (d[i, j] * d[i, k])
        sides.append((d / d[d > 0].mean() if (d > 0).any() else d, cosine))

    def smooth_l1(x: np.ndarray) -> float:
        return np.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5).mean()

    (d_s, cosine_s), (d_t, cosine_t) = sides
    return distance * smooth_l1(d_s - d_t) + angle * smooth_l1(cosine_s - cosine_t)
