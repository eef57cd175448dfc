"""Inputs of the LSH loss, and what is right for them: the formula, hash by hash, in float64."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import embeddings
import numpy as np
import torch
from torch import Tensor

from amd_fused import lsh_loss


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor
    weight: Tensor
    bias: Tensor | None


def inputs(
    size: tuple[int, int] = (7, 67),
    hashes: int = 43,
    dtypes: str = "float32",
    layout: str = "contiguous",
) -> Inputs:
    student, teacher = embeddings.pair(size, dtypes, layout)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(hashes, size[1], generator=generator) / math.sqrt(size[1])
    return Inputs(student, teacher, weight, torch.randn(hashes, generator=generator))


def run(backend: str, given: Inputs, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by student and teacher."""
    student, teacher = (a.detach().requires_grad_() for a in given[:2])
    loss = lsh_loss(student, teacher, given.weight, given.bias, backend=backend, **options)
    by_s, by_t = torch.autograd.grad(
        loss, (student, teacher), allow_unused=True, materialize_grads=True
    )
    return loss.detach(), by_s, by_t


def oracle(
    given: Inputs, kind: str = "bce", l2_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    s, t, w = (a.double().numpy() for a in given[:3])
    b = np.zeros(len(w)) if given.bias is None else given.bias.double().numpy()
    hash_s, hash_t = s @ w.T + b, t @ w.T + b
    slope = np.zeros_like(hash_s)
    total = 0.0
    for i in np.ndindex(*hash_s.shape):
        x = hash_s[i]
        if kind == "bce":
            side = hash_t[i] > 0
            total += math.log1p(math.exp(-abs(x))) + max(-x if side else x, 0)
            slope[i] = 1 / (1 + math.exp(-x)) - side
        elif kind == "l2":
            total += (x - hash_t[i]) ** 2
            slope[i] = 2 * (x - hash_t[i])
        else:
            total += abs(x - hash_t[i])
            slope[i] = np.sign(x - hash_t[i])
    hashed = slope @ w / slope.size
    difference = 2 * l2_weight * (s - t) / s.size
    loss = total / slope.size + l2_weight * np.mean((s - t) ** 2)
    by_t = -difference - (0 if kind == "bce" else hashed)
    return torch.tensor(loss), torch.tensor(hashed + difference), torch.tensor(by_t)
