"""What is right for AFD: both means of a feature, the loss, and their gradients written out."""

from __future__ import annotations

from typing import NamedTuple

import cases
import numpy as np
import torch
from torch import Tensor
from trained_oracle import Array, array

from amd_fused import afd_loss
from amd_fused.losses.afd import operator, reference
from amd_fused.losses.afd.operator import Reduced


class Inputs(NamedTuple):
    students: list[Tensor]
    teachers: list[Tensor]
    attention: Tensor  # [B, T, S]


def inputs(shape: str, dtypes: str = "float32", layout: str = "nchw") -> Inputs:
    """Two maps a side: one of a shape of cases.py, and one of half its height, or width.

    Of several samples, one has a map of zeros on each side.
    """
    batch, c_s, c_t, height, width = cases.SHAPES[shape]
    halves = (height + 1) // 2, (width + 1) // 2
    kinds = cases.DTYPES[dtypes]
    student, teacher = cases.features((batch, c_s, c_t, height, width), kinds, layout)
    lower, _ = cases.features((batch, c_s, c_t, halves[0], width), kinds, layout, seed=1)
    _, narrower = cases.features((batch, c_s, c_t, height, halves[1]), kinds, layout, seed=2)
    if batch > 1:
        student[0], narrower[-1] = 0, 0
    generator = torch.Generator().manual_seed(4)
    attention = torch.randn(batch, 2, 2, generator=generator).softmax(2)
    return Inputs([student, lower], [teacher, narrower], attention)


def run(backend: str, given: Inputs, scale: float = 1.0) -> list[Tensor]:
    """Loss, and its gradients by all maps of student and teacher and the attention, times a
    scale."""
    students, teachers = ([a.detach().requires_grad_() for a in side] for side in given[:2])
    attention = given.attention.detach().requires_grad_()
    loss = afd_loss(students, teachers, attention, backend=backend)
    leaves = [*students, *teachers, attention]
    return [loss.detach(), *torch.autograd.grad(scale * loss, leaves)]


def oracle(given: Inputs) -> list[Tensor]:
    """The same by NumPy, pair by pair and sample by sample."""
    students, teachers = (list(map(array, side)) for side in given[:2])
    weights, batch = array(given.attention), len(given.attention)
    loss, by_attention = 0.0, np.zeros_like(weights)
    grads = {id(a): np.zeros_like(a) for a in (*students, *teachers)}
    for b, t, s in np.ndindex(*weights.shape):
        a_s, a_t = students[s][b], teachers[t][b]
        f_s, f_t = (a_s**2).mean(0), (a_t**2).mean(0)
        by_rows, by_columns = (_cells(*n) for n in zip(f_s.shape, f_t.shape, strict=True))
        pooled = by_rows @ f_s @ by_columns.T
        norm_s, norm_t = np.sqrt((pooled**2).sum()), np.sqrt((f_t**2).sum())
        v_s, v_t = (f / n if n else f for f, n in ((pooled, norm_s), (f_t, norm_t)))
        distance = ((v_s - v_t) ** 2).mean()
        loss += weights[b, t, s] * distance / batch
        by_attention[b, t, s] = distance / batch
        upstream = 2 * weights[b, t, s] / batch * (v_s - v_t) / v_t.size
        if norm_s:  # the Jacobian of x / |x| is (1 - v v^T) / |x|
            by_pooled = (upstream - v_s * (v_s * upstream).sum()) / norm_s
            by_f = by_rows.T @ by_pooled @ by_columns
            grads[id(students[s])][b] += 2 / len(a_s) * a_s * by_f
        if norm_t:
            by_f = (v_t * (v_t * upstream).sum() - upstream) / norm_t
            grads[id(teachers[t])][b] += 2 / len(a_t) * a_t * by_f
    found = [np.array(loss), *(grads[id(a)] for a in (*students, *teachers)), by_attention]
    return [torch.from_numpy(a) for a in found]


def _cells(size: int, count: int) -> Array:
    """[count, size]: row i averages from floor(i size / count) to ceil((i + 1) size / count)."""
    matrix = np.zeros((count, size))
    for i in range(count):
        first, last = i * size // count, -(-(i + 1) * size // count)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


def upstreams(a: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gradients of a feature's map and of its means, neither of which is contiguous."""
    batch, channels, height, width = a.shape
    generator = torch.Generator().manual_seed(5)
    by_map = torch.randn(batch, 1, width, height, generator=generator, dtype=dtype).mT
    return by_map, torch.randn(channels, batch, generator=generator, dtype=dtype).T


def reduce(backend: str, a: Tensor) -> list[Tensor]:
    """A feature's map and means, and its gradient for upstreams()."""
    leaf = a.detach().requires_grad_()
    dtype = reference.compute_dtype([a])
    if backend == "reference":
        found = Reduced(reference.maps([leaf], dtype), reference.means([leaf], dtype))
    else:
        found = operator.afd_fwd(backend, [leaf], dtype == torch.float64)
    (of_positions,), (of_channels,) = found
    outputs = (of_positions, of_channels)
    (grad,) = torch.autograd.grad(outputs, leaf, upstreams(a, dtype))
    return [of_positions.detach(), of_channels.detach(), grad]


def reduced(a: Tensor) -> list[Tensor]:
    """The same in float64 from the formulas."""
    by_map, by_means = upstreams(a, reference.compute_dtype([a]))
    x, count = a.double(), a.shape[2] * a.shape[3]
    grad = 2 * x * by_map / a.shape[1] + by_means[:, :, None, None] / count
    return [(x**2).sum(1, keepdim=True) / a.shape[1], x.sum((2, 3)) / count, grad]
