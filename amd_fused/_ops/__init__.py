"""Operators of the losses, one file each: schemas, fake kernels and autograd."""

from amd_fused._ops.amd import FUSED_BACKENDS, amd_fwd

__all__ = ["FUSED_BACKENDS", "amd_fwd"]
