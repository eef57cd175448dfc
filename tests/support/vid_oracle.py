"""What is right for VID: the formula of trained_oracle.py, and its gradients written out."""

from __future__ import annotations

import cases
import torch
import trained_oracle
from torch import Tensor

from amd_fused import vid_loss

EPS = 1e-2


def inputs(shape: str, dtypes: str = "float32", layout: str = "nchw") -> list[Tensor]:
    batch, channels, _, height, width = cases.SHAPES[shape]
    sizes = (batch, channels, channels, height, width)
    pair = cases.features(sizes, cases.DTYPES[dtypes], layout)
    return [*pair, torch.randn(channels, generator=torch.Generator().manual_seed(3))]


def run(backend: str, given: list[Tensor], scale: float = 1.0) -> list[Tensor]:
    leaves = [a.detach().requires_grad_() for a in given]
    loss = vid_loss(*leaves, eps=EPS, backend=backend)
    return [loss.detach(), *torch.autograd.grad(scale * loss, leaves)]


def oracle(given: list[Tensor]) -> list[Tensor]:
    """Loss and gradients, as the formula's derivatives were worked out by hand."""
    mean, target, rho = (a.detach().double() for a in given)
    variance = (rho.exp().log1p() + EPS)[:, None, None]
    by_mean = (mean - target) / variance / mean.numel()
    by_variance = 0.5 * (1 / variance - ((mean - target) / variance) ** 2) / mean.numel()
    by_rho = by_variance.expand_as(mean).sum((0, 2, 3)) / (1 + (-rho).exp())
    loss = trained_oracle.vid(mean, target, rho, EPS)
    return [torch.tensor(loss, dtype=torch.float64), by_mean, -by_mean, by_rho]
