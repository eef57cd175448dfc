"""The ND loss in plain PyTorch: norm and direction of embeddings in one term (KD++)."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused.losses._common.dtypes import compute_dtype


def nd_loss(student: Tensor, teacher: Tensor, target: Tensor, class_means: Tensor) -> Tensor:
    """ND loss in plain PyTorch: any floating dtype, gradients of first and second order.

    Arguments, shapes and result as :func:`amd_fused.nd_loss`, which checks its arguments and is the
    call for users (``backend="reference"`` comes here). Half precision is widened to float32 first.

    Source: Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and
    Direction", 2023: the ND loss.
    """
    dtype = compute_dtype([student, teacher])
    s, t = student.to(dtype), teacher.to(dtype)
    classes = class_means.shape[0]
    known = (target >= 0) & (target < classes)
    # The teacher's class mean of the label, normalised; a mean of zeros has no direction.
    mean = class_means[torch.where(known, target, 0).long()].to(dtype)
    e = _over(mean, _norm(mean).unsqueeze(1))
    # The released code's max(): a tie is the student's. Not torch.maximum, which halves the
    # gradient there.
    norm_s, norm_t = _norm(s), _norm(t)
    longer = torch.where((norm_s >= norm_t) | norm_s.isnan(), norm_s, norm_t)
    loss = 1 - _over((s * e).sum(1), longer)
    # A label without a class mean contributes nothing, not even its NaN.
    return torch.where(known, loss, 0.0).mean()


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, with gradient 0 at 0; Inf in a row gives NaN, which is heard."""
    square = x.square().sum(1)
    zero = square == 0
    norm = torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
    return torch.where(norm.isinf(), torch.nan, norm)


def _over(x: Tensor, norm: Tensor) -> Tensor:
    """x / norm; 0 where the norm is 0."""
    return torch.where(norm == 0, 0.0, x / torch.where(norm == 0, 1.0, norm))
