"""Plain PyTorch, equation by equation: the meaning of every loss in this package.

Readable first; every other backend is checked against these files, run in float64. Imports torch
only.
"""

from amd_fused.reference.amd import amd_loss, compute_dtype, cos_margin, pool_to_common_size

__all__ = ["amd_loss", "compute_dtype", "cos_margin", "pool_to_common_size"]
