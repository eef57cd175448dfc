"""KD and its spherical form from their formulas, row by row in complex float64.

Gradients are complex steps, f(z + ih) / h: exact to rounding, and no derivative is written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import embeddings
import numpy as np
import torch
from cases import DTYPES
from torch import Tensor

from amd_fused import kd_loss, reference, spherical_kd_loss

STEP = 1e-30

# Name: what the call adds to the temperature; None for norm is KD itself.
FORMS: dict[str, dict[str, Any]] = {
    "kd": {},
    "std": {"norm": "std"},
    "std to 2.5": {"norm": "std", "multiplier": 2.5},
    "l2": {"norm": "l2"},
    "l2 to 7": {"norm": "l2", "multiplier": 7.0},
}


class Result(NamedTuple):
    loss: Tensor
    by_student: Tensor
    by_teacher: Tensor


def logits(
    shape: tuple[int, int], dtypes: str = "float32", layout: str = "contiguous", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Student and teacher, of unlike spread and not of mean 0."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    z_s, z_t = (
        embeddings.LAYOUTS[layout]((scale * z + 1).to(dtype))
        for scale, z, dtype in zip((2, 4), noise, DTYPES[dtypes], strict=True)
    )
    return z_s, z_t


def loss_of(form: dict[str, Any], source: Any = None) -> Callable[..., Tensor]:
    """The public function of a form, or the reference's."""
    if source is reference:
        return reference.spherical_kd_loss if form else reference.kd_loss
    return spherical_kd_loss if form else kd_loss


def run(
    form: dict[str, Any], z_s: Tensor, z_t: Tensor, temperature: float = 4.0, **options: Any
) -> Result:
    """Of a backend, by public function; of the reference without one. Inputs are left alone."""
    leaves = [z.detach().requires_grad_() for z in (z_s, z_t)]
    function = loss_of(form, None if options else reference)
    loss = function(*leaves, temperature, **form, **options)
    return Result(loss.detach(), *torch.autograd.grad(loss, leaves))


def oracle(form: dict[str, Any], z_s: Tensor, z_t: Tensor, temperature: float = 4.0) -> Result:
    rows_s, rows_t = z_s.double().numpy(), z_t.double().numpy()
    batch, width = rows_s.shape
    factor = temperature**2 / batch
    loss, by_s, by_t = 0.0, np.zeros_like(rows_s), np.zeros_like(rows_t)
    steps = 1j * STEP * np.eye(width)
    for b, (s, t) in enumerate(zip(rows_s, rows_t, strict=True)):
        loss += factor * divergence(s[None], t[None], temperature, **form)[0].real
        by_s[b] = factor * divergence(s + steps, t[None], temperature, **form).imag / STEP
        by_t[b] = factor * divergence(s[None], t + steps, temperature, **form).imag / STEP
    return Result(torch.tensor(loss), torch.from_numpy(by_s), torch.from_numpy(by_t))


def divergence(
    s: np.ndarray,
    t: np.ndarray,
    temperature: float,
    norm: str | None = None,
    multiplier: float | None = None,
) -> np.ndarray:
    """KL(softmax(t / tau) || softmax(s / tau)) of each row."""
    if norm is not None:
        radius = length(t, norm) if multiplier is None else multiplier
        s, t = s / length(s, norm) * radius, t / length(t, norm) * radius
    log_p_s, log_p_t = log_softmax(s / temperature), log_softmax(t / temperature)
    return (np.exp(log_p_t) * (log_p_t - log_p_s)).sum(1)


def length(z: np.ndarray, norm: str) -> np.ndarray:
    if norm == "l2":
        return np.sqrt((z * z).sum(1, keepdims=True))
    apart = z - z.mean(1, keepdims=True)
    return np.sqrt((apart * apart).sum(1, keepdims=True) / (z.shape[1] - 1))


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.real.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))
