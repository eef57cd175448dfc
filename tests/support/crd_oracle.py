"""What is right for CRD: the formula of trained_oracle.py, and its gradients written out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import trained_oracle
from torch import Tensor

from amd_fused import crd_loss


def inputs(
    batch: int = 3,
    rows: int = 40,
    width: int = 9,
    negatives: int = 50,
    dtype: torch.dtype = torch.float32,
    bank_dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)

    def unit(count: int) -> Tensor:
        drawn = torch.randn(count, width, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1)

    return {
        "student": unit(batch).to(dtype),
        "teacher": unit(batch).to(dtype),
        "student_bank": unit(rows).to(bank_dtype),
        "teacher_bank": unit(rows).to(bank_dtype),
        "samples": torch.randint(rows, (batch, 1 + negatives), generator=generator),
        "log_normalizers": torch.tensor([3.0, 2.5], dtype=torch.float64),
    }


def run(backend: str, given: dict[str, Any], temperature: float = 0.2) -> list[Tensor]:
    leaves = [given[side].detach().requires_grad_() for side in ("student", "teacher")]
    both = dict(zip(("student", "teacher"), leaves, strict=True))
    loss = crd_loss(**(given | both), temperature=temperature, backend=backend)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def oracle(given: dict[str, Any], temperature: float = 0.2) -> list[Tensor]:
    """Loss, and the gradients with the derivative of each term by its score worked out by hand."""
    s, t, bank_s, bank_t, log_z = (a.double() for name, a in given.items() if name != "samples")
    samples, banks = given["samples"].long(), (bank_s, bank_t)
    loss = trained_oracle.crd(s, t, banks, samples, log_z, temperature, 1e-7)
    noise = (samples.shape[1] - 1) / len(bank_s) + 1e-7
    grads = []
    for e, bank, z in ((s, bank_t, log_z[0]), (t, bank_s, log_z[1])):
        chosen = bank[samples]
        h = torch.exp((chosen * e[:, None]).sum(2) / temperature - z)
        by_score = h / (h + noise)
        by_score[:, 0] -= 1
        grads.append((by_score[:, :, None] * chosen).sum(1) / temperature / len(e))
    return [torch.tensor(loss, dtype=torch.float64), *grads]
