"""What the norms of several losses have in common."""

from __future__ import annotations

import torch
from torch import Tensor

# Norms below this count as this in every normalisation of Eq. 7, as in F.normalize.
NORM_FLOOR = 1e-12


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """``x / ||x||_2`` along an axis. Zeros stay zeros, without gradient, and norms below the
    smallest normal number (1e-38 in float32) count as theirs.

    F.normalize would give them one of 1e12 times the upstream gradient.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    # A norm past the largest number would make zeros of a finite vector: NaN is heard.
    norm = torch.where(norm == torch.inf, torch.nan, norm)
    zero = norm < torch.finfo(x.dtype).tiny
    # A product with the inverse has half the passes over x, and of its gradient, that x / norm has.
    return x * torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, norm))
