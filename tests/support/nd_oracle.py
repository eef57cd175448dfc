"""Inputs of the ND loss, and what is right for them: the formula, row by row, in float64."""

from __future__ import annotations

from typing import NamedTuple

import embeddings
import numpy as np
import torch
from torch import Tensor

from amd_fused import nd_loss

CLASSES = 6


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor
    target: Tensor
    class_means: Tensor


def inputs(shape: str, dtypes: str = "float32", layout: str = "contiguous") -> Inputs:
    size = embeddings.SHAPES[shape]
    student, teacher = embeddings.pair(size, dtypes, layout)
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, CLASSES, size[:1], generator=generator)
    means = torch.randn(CLASSES, size[1], dtype=torch.float64, generator=generator)
    return Inputs(student, teacher, target, embeddings.LAYOUTS[layout](means.float()))


def run(backend: str, given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by student and teacher."""
    student, teacher = (a.detach().requires_grad_() for a in given[:2])
    loss = nd_loss(student, teacher, given.target, given.class_means, backend=backend)
    return loss.detach(), *torch.autograd.grad(loss, (student, teacher))


def oracle(given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher, means = (a.double().numpy() for a in (given[0], given[1], given[3]))
    total, by_s, by_t = 0.0, np.zeros_like(student), np.zeros_like(teacher)
    for b, label in enumerate(given.target.tolist()):
        s, t, e = student[b], teacher[b], means[label] / np.linalg.norm(means[label])
        norm_s, norm_t = np.linalg.norm(s), np.linalg.norm(t)
        longer = max(norm_s, norm_t)
        total += 1 - s @ e / longer
        by_s[b] = -e / longer
        # d longer / d x = x / |x| for the longer one, a tie being the student's.
        if norm_s >= norm_t:
            by_s[b] += (s @ e) / longer**2 * s / norm_s
        else:
            by_t[b] = (s @ e) / longer**2 * t / norm_t
    batch = len(student)
    return torch.tensor(total / batch), torch.tensor(by_s / batch), torch.tensor(by_t / batch)
