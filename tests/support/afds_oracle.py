"""What is right for AFDS: the formula of trained_oracle.py, and its gradients written out."""

from __future__ import annotations

from typing import Any, NamedTuple

import cases
import numpy as np
import torch
import trained_oracle
from torch import Tensor

from amd_fused import afds_loss


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor
    importance: Tensor


def inputs(shape: str, dtypes: str = "float32", layout: str = "nchw") -> Inputs:
    """Features of a shape of cases.py, as wide as its student, with a channel of zeros a side."""
    batch, channels, _, height, width = cases.SHAPES[shape]
    sizes = (batch, channels, channels, height, width)
    student, teacher = cases.features(sizes, cases.DTYPES[dtypes], layout)
    if channels > 4:
        student[0, 1], teacher[-1, 2] = 0, 0
    generator = torch.Generator().manual_seed(4)
    importance = torch.randn(batch, channels, generator=generator).softmax(1)
    return Inputs(student, teacher, importance)


def run(backend: str, given: Inputs, scale: float = 1.0, **options: Any) -> list[Tensor]:
    """Loss, and its gradients by student, teacher and importance, times a scale."""
    leaves = [a.detach().requires_grad_() for a in given]
    loss = afds_loss(*leaves, backend=backend, **options)
    return [loss.detach(), *torch.autograd.grad(scale * loss, leaves)]


def oracle(given: Inputs, eps: float = 1e-6) -> list[Tensor]:
    """The same by NumPy, channel by channel."""
    s, t, rho = map(trained_oracle.array, given)
    by_s, by_t, by_rho = np.zeros_like(s), np.zeros_like(t), np.zeros_like(rho)
    for b, c in np.ndindex(*rho.shape):
        a_s, a_t = s[b, c].ravel(), t[b, c].ravel()
        n_s, n_t = (np.sqrt((a**2).sum()) for a in (a_s, a_t))
        x, y = a_s / (n_s + eps), a_t / (n_t + eps)
        by_rho[b, c] = ((x - y) ** 2).mean() / len(rho)
        upstream = 2 * rho[b, c] / len(rho) * (x - y) / a_s.size
        for out, a, n, g in ((by_s, a_s, n_s, upstream), (by_t, a_t, n_t, -upstream)):
            if n > 0:  # the Jacobian of a / (|a| + eps), as a matrix
                jacobian = np.eye(a.size) / (n + eps) - np.outer(a, a) / (n * (n + eps) ** 2)
                out[b, c] = (jacobian @ g).reshape(out[b, c].shape)
    loss = np.array(trained_oracle.afds(*given, eps))
    return [torch.from_numpy(a) for a in (loss, by_s, by_t, by_rho)]
