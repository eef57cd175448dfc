"""Plain PyTorch, equation by equation: the meaning of every loss in this package.

Readable first; every other backend is checked against these files, run in float64. Imports torch
only.
"""

from amd_fused.reference.amd import (
    amd_loss,
    compute_dtype,
    cos_margin,
    kept_by_autograd,
    pool_to_common_size,
)
from amd_fused.reference.at import at_loss
from amd_fused.reference.kd import kd_loss, spherical_kd_loss, spherical_logits
from amd_fused.reference.lsh import lsh_loss
from amd_fused.reference.nd import nd_loss
from amd_fused.reference.rkd import rkd_loss
from amd_fused.reference.sp import similarity_distance, sp_loss

__all__ = [
    "amd_loss",
    "at_loss",
    "compute_dtype",
    "cos_margin",
    "kd_loss",
    "kept_by_autograd",
    "lsh_loss",
    "nd_loss",
    "pool_to_common_size",
    "rkd_loss",
    "similarity_distance",
    "sp_loss",
    "spherical_kd_loss",
    "spherical_logits",
]
