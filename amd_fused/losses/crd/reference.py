"""Contrastive representation distillation in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype, without_autocast


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
    *,
    temperature: float = 0.07,
    eps: float = 1e-7,
) -> Tensor:
    """CRD loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.crd_loss`, which checks its arguments and is
    the call for users. Half precision is widened to float32 first. Holds the rows of the banks,
    [B, 1 + K, D], of either side.

    Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, section 3.
    """
    dtype = compute_dtype([student, teacher])
    with without_autocast(student.device.type):
        # Each side's anchor beside the other side's bank.
        pairs = ((student, teacher_bank), (teacher, student_bank))
        losses = [
            _nce(e.to(dtype), bank, samples, log_z.to(dtype), temperature, eps)
            for (e, bank), log_z in zip(pairs, log_normalizers, strict=True)
        ]
    return losses[0] + losses[1]


def _nce(
    e: Tensor, bank: Tensor, samples: Tensor, log_z: Tensor, temperature: float, eps: float
) -> Tensor:
    """Noise-contrastive estimation of one side against the other's bank, 0-d."""
    rows = bank[samples.long()].to(e.dtype)
    # Eq. 19: the exponential of anchor and candidate, [B, 1 + K], in units of the normaliser.
    h = torch.exp((rows @ e[:, :, None]).squeeze(2) / temperature - log_z)
    # K negatives of the uniform noise distribution 1 / N.
    noise = (samples.shape[1] - 1) / bank.shape[0]
    positive = torch.log(h[:, 0] / (h[:, 0] + noise + eps))
    negative = torch.log(noise / (h[:, 1:] + noise + eps))
    return -(positive + negative.sum(1)).mean()
